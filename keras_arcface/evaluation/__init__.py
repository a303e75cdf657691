"""Metrics of the published evaluation protocols, plots and reports."""

from typing import TYPE_CHECKING

from keras_arcface._late_names import late_names
from keras_arcface.evaluation.clustering import ClusteringResult
from keras_arcface.evaluation.clustering import score_clusters
from keras_arcface.evaluation.error_discard import ErrorVersusDiscard
from keras_arcface.evaluation.error_discard import error_versus_discard
from keras_arcface.evaluation.folds import FoldAccuracies
from keras_arcface.evaluation.groups import GroupRates
from keras_arcface.evaluation.groups import GroupResult
from keras_arcface.evaluation.groups import by_group
from keras_arcface.evaluation.identification import DistractorResult
from keras_arcface.evaluation.identification import IdentificationResult
from keras_arcface.evaluation.identification import identify
from keras_arcface.evaluation.identification import identify_among_distractors
from keras_arcface.evaluation.label_noise import LabelNoise
from keras_arcface.evaluation.label_noise import find_label_noise
from keras_arcface.evaluation.overlap import Overlap
from keras_arcface.evaluation.overlap import find_overlap
from keras_arcface.evaluation.plots import plot_error_versus_discard
from keras_arcface.evaluation.plots import plot_groups
from keras_arcface.evaluation.plots import plot_label_noise
from keras_arcface.evaluation.plots import plot_verification
from keras_arcface.evaluation.rate_differences import RateDifference
from keras_arcface.evaluation.reidentification import ReidentificationResult
from keras_arcface.evaluation.reidentification import reidentify
from keras_arcface.evaluation.retrieval import RetrievalResult
from keras_arcface.evaluation.retrieval import clustering_nmi
from keras_arcface.evaluation.retrieval import retrieve
from keras_arcface.evaluation.roc import OperatingPoint
from keras_arcface.evaluation.roc import Roc
from keras_arcface.evaluation.scores import pair_scores
from keras_arcface.evaluation.scores import score_blocks
from keras_arcface.evaluation.stored_embeddings import StoredEmbeddings
from keras_arcface.evaluation.tables import Table
from keras_arcface.evaluation.tables import results_table
from keras_arcface.evaluation.tables import to_json
from keras_arcface.evaluation.templates import TemplateResult
from keras_arcface.evaluation.templates import pool_templates
from keras_arcface.evaluation.templates import verify_templates
from keras_arcface.evaluation.verification import VerificationResult
from keras_arcface.evaluation.verification import verify

if TYPE_CHECKING:
    from keras_arcface.evaluation.embedding import embed_dataset
    from keras_arcface.evaluation.embedding import embed_images
    from keras_arcface.evaluation.embedding import embed_pairs
    from keras_arcface.evaluation.embedding_writer import write_embeddings
    from keras_arcface.evaluation.overlap_page import write_overlap_page
    from keras_arcface.evaluation.report import Report

__all__ = [
    "ClusteringResult",
    "DistractorResult",
    "ErrorVersusDiscard",
    "FoldAccuracies",
    "GroupRates",
    "GroupResult",
    "IdentificationResult",
    "LabelNoise",
    "OperatingPoint",
    "Overlap",
    "RateDifference",
    "ReidentificationResult",
    "Report",
    "RetrievalResult",
    "Roc",
    "StoredEmbeddings",
    "Table",
    "TemplateResult",
    "VerificationResult",
    "by_group",
    "clustering_nmi",
    "embed_dataset",
    "embed_images",
    "embed_pairs",
    "error_versus_discard",
    "find_label_noise",
    "find_overlap",
    "identify",
    "identify_among_distractors",
    "pair_scores",
    "plot_error_versus_discard",
    "plot_groups",
    "plot_label_noise",
    "plot_verification",
    "pool_templates",
    "reidentify",
    "results_table",
    "retrieve",
    "score_blocks",
    "score_clusters",
    "to_json",
    "verify",
    "verify_templates",
    "write_embeddings",
    "write_overlap_page",
]

# Searches in a gallery, and figures of given scores, start faster without TensorFlow.
__getattr__ = late_names(
    __name__,
    {
        "Report": "report",
        "embed_dataset": "embedding",
        "embed_images": "embedding",
        "embed_pairs": "embedding",
        "write_embeddings": "embedding_writer",
        "write_overlap_page": "overlap_page",
    },
)


def __dir__():
    return sorted(__all__)
