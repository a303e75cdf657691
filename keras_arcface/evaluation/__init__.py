"""Honest numbers: embeddings of pairs -> verification figures and pictures, by the published procedures."""

from keras_arcface.evaluation.embedding import embed_images
from keras_arcface.evaluation.embedding import embed_pairs
from keras_arcface.evaluation.plots import plot_verification
from keras_arcface.evaluation.verification import VerificationResult
from keras_arcface.evaluation.verification import verify

__all__ = ["VerificationResult", "embed_images", "embed_pairs", "plot_verification", "verify"]
