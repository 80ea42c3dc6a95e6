"""Load tests: a closed-loop HTTP load with the figures people compare."""

from hostler.bench.knee import LEVELS, Knee, climb, find_knee
from hostler.bench.load import run
from hostler.bench.plan import LoadPlan, LoadResult, Quantiles

__all__ = ["LEVELS", "Knee", "LoadPlan", "LoadResult", "Quantiles", "climb", "find_knee", "run"]
