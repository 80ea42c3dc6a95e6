"""Trains the digits classifier, exports it to ONNX and checks the export: `python train.py`.

Writes model/digits.onnx (input `image` FP32 [-1, 64]; outputs `label` INT64 [-1], `probabilities` FP32 [-1, 10]) and
heldout.json with the images the classifier never saw.
"""

# scikit-learn and skl2onnx ship no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import skl2onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.svm import SVC

SEED = 2008
HERE = Path(__file__).parent
Array = np.ndarray[Any, Any]


def fit(images: Array, labels: Array) -> Pipeline:
    machine = SVC(C=10, gamma="scale")
    ensemble: Any = False  # declared as a string
    calibrated = CalibratedClassifierCV(machine, ensemble=ensemble)
    return make_pipeline(MinMaxScaler(), calibrated).fit(images, labels)


def export(classifier: Pipeline, path: Path) -> None:
    convert: Any = skl2onnx.to_onnx  # declares narrower types than it takes
    graph = convert(
        classifier,
        initial_types=[("image", FloatTensorType([None, 64]))],
        options={"zipmap": False},
        target_opset=18,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(graph.SerializeToString())


def accuracy(path: Path, images: Array, labels: Array) -> float:
    """Share of images the exported file labels right, asked as one batch and one by one."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    run: Any = session.run
    together = run(["label"], {"image": images})[0].tolist()
    alone = [run(["label"], {"image": image[None]})[0].item() for image in images]
    if alone != together:
        raise SystemExit("a batch and its images one by one got different labels")
    return float(np.mean(labels == together))


def main() -> None:
    digits: Any = load_digits()
    split: Any = train_test_split(
        digits.data.astype(np.float32), digits.target, test_size=0.25, stratify=digits.target, random_state=SEED
    )
    parts: list[Array] = split
    images, held_images, labels, held_labels = parts
    classifier = fit(images, labels)
    model = HERE / "model" / "digits.onnx"
    export(classifier, model)
    held_out = {"images": held_images.astype(int).tolist(), "labels": held_labels.tolist()}
    (HERE / "heldout.json").write_text(json.dumps(held_out, separators=(",", ":")) + "\n")
    print(f"{model.stat().st_size:,} bytes; scikit-learn {classifier.score(held_images, held_labels):.2%} right")
    print(f"ONNX Runtime {accuracy(model, held_images, held_labels):.2%} of {len(held_labels)} held-out images right")


if __name__ == "__main__":
    main()
