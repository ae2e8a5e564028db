"""The metrics of the paper's Table 1, computed as av-benchmark computes them (paper section 4.2).

All take arrays of finite numbers and raise :class:`common.errors.InputError` for others, for wrong
dimensions and for too few rows.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax, softmax

from common.errors import InputError

DESYNC_OFFSETS = np.linspace(-2.0, 2.0, 21)  # seconds, the classes of Synchformer
_INCEPTION_SPLITS, _INCEPTION_SEED = 10, 2020


def _matrix(name: str, values: np.ndarray, rows: int = 1) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 2:
        raise InputError(f"{name} has shape {values.shape}: two dimensions are needed, clips by values")
    if len(values) < rows:
        raise InputError(f"{name} has {len(values)} rows: at least {rows} are needed")
    if bad := int((~np.isfinite(values)).any(axis=1).sum()):
        raise InputError(f"{name} has NaN or Inf in {bad} of {len(values)} rows")
    return values


def _pair(first: tuple[str, np.ndarray], second: tuple[str, np.ndarray], rows: int = 1) -> tuple[np.ndarray, ...]:
    arrays = _matrix(*first, rows), _matrix(*second, rows)
    if arrays[0].shape[1] != arrays[1].shape[1]:
        raise InputError(
            f"{first[0]} has {arrays[0].shape[1]} values a row, {second[0]} {arrays[1].shape[1]}: "
            f"they come from different networks"
        )
    return arrays


def _matched(first: tuple[str, np.ndarray], second: tuple[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    arrays = _pair(first, second)
    if len(arrays[0]) != len(arrays[1]):
        raise InputError(f"{first[0]} has {len(arrays[0])} clips, {second[0]} {len(arrays[1])}: they must be pairs")
    return arrays


def gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D), N - 1 in the denominator, of features (N, D); float64."""
    features = np.asarray(features, np.float64)
    mean = features.mean(axis=0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def frechet_distance(generated: np.ndarray, reference: np.ndarray) -> float:
    """Fréchet distance between Gaussians fitted to features (N, D) and (M, D); 0 is best.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). The trace of the root is the sum of the singular values of
    R1 R2^T, where R are square roots with C = R^T R: with fewer rows than dimensions those are the centred
    features themselves, else the symmetric roots of the covariances. No root of a matrix that is not
    symmetric is taken, so there is nothing complex to drop and no epsilon to add.
    """
    generated, reference = _pair(("generated features", generated), ("reference features", reference), rows=2)
    (mean1, root1, trace1), (mean2, root2, trace2) = _root(generated), _root(reference)
    cross = float(np.linalg.svd(root1 @ root2.T, compute_uv=False).sum())
    return float(np.square(mean1 - mean2).sum() + trace1 + trace2 - 2 * cross)


def _root(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean (D,), a root R (K, D) of the covariance with C = R^T R, and the covariance's trace."""
    rows, width = features.shape
    if rows <= width:
        features = features.astype(np.float64)
        mean = features.mean(axis=0)
        root = (features - mean) / np.sqrt(rows - 1)
        return mean, root, float(np.square(root).sum())
    mean, covariance = gaussian(features)
    values, vectors = np.linalg.eigh(covariance)
    return mean, np.sqrt(np.maximum(values, 0))[:, None] * vectors.T, float(np.trace(covariance))


def kl_per_clip(generated_logits: np.ndarray, reference_logits: np.ndarray) -> np.ndarray:
    """KL(reference || generated) of the softmax of logits, (N, classes) each, a value a clip: (N,); 0 is best."""
    generated, reference = _matched(("generated logits", generated_logits), ("reference logits", reference_logits))
    p, log_p = softmax(reference.astype(np.float64), axis=1), log_softmax(reference.astype(np.float64), axis=1)
    log_q = log_softmax(generated.astype(np.float64), axis=1)
    return (p * (log_p - log_q)).sum(axis=1)


def inception_score(logits: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation over 10 splits of exp(mean KL(clip || mean of the split)); higher is better.

    Logits (N, classes). The splits follow a permutation by ``RandomState(2020)``, as torch-fidelity does it.
    """
    logits = _matrix("logits", logits, _INCEPTION_SPLITS).astype(np.float64)
    order = np.random.RandomState(_INCEPTION_SEED).permutation(len(logits))
    p, log_p = softmax(logits[order], axis=1), log_softmax(logits[order], axis=1)
    scores = []
    for split in range(_INCEPTION_SPLITS):
        rows = slice(split * len(p) // _INCEPTION_SPLITS, (split + 1) * len(p) // _INCEPTION_SPLITS)
        mean = p[rows].mean(axis=0, keepdims=True)
        scores.append(np.exp((p[rows] * (log_p[rows] - np.log(mean))).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def cosine_per_clip(video: np.ndarray, audio: np.ndarray) -> np.ndarray:
    """Cosine of each clip's two embeddings, (N, D) each: (N,)."""
    video, audio = (
        values.astype(np.float64) for values in _matched(("video embeddings", video), ("audio embeddings", audio))
    )
    norms = np.linalg.norm(video, axis=1) * np.linalg.norm(audio, axis=1)
    return (video * audio).sum(axis=1) / np.maximum(norms, 1e-8)


def desync_per_clip(logits: np.ndarray) -> np.ndarray:
    """|offset| in seconds that Synchformer finds in each clip, (N,); 0 is best.

    Logits (N, 2, 21): of the clip's first and last 14 segments, over :data:`DESYNC_OFFSETS`; or (N, 21).
    """
    logits = np.asarray(logits)
    if logits.ndim not in (2, 3) or logits.shape[-1] != len(DESYNC_OFFSETS) or not len(logits):
        raise InputError(f"Synchformer logits have shape {logits.shape}: (clips, 2, {len(DESYNC_OFFSETS)}) is needed")
    _matrix("Synchformer logits", logits.reshape(-1, logits.shape[-1]))
    return np.abs(DESYNC_OFFSETS[logits.argmax(axis=-1)]).reshape(len(logits), -1).mean(axis=1)
