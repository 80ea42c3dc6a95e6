"""The model server: Open Inference Protocol v2 and /predict over one protocol-free core."""
