"""The typed Python SDK: `Client` for the control API, `Inference` for the front door."""

from hostler.client.client import Client
from hostler.client.inference import Inference
from hostler.client.transfer import Progress, TransferState

__all__ = ["Client", "Inference", "Progress", "TransferState"]
