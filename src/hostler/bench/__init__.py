"""Load tests: a closed-loop HTTP load with the figures people compare."""

from hostler.bench.load import run
from hostler.bench.plan import LoadPlan, LoadResult, Quantiles

__all__ = ["LoadPlan", "LoadResult", "Quantiles", "run"]
