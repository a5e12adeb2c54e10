"""The pruned network as a product: small to store, ready to run elsewhere, and said what it is."""

from pruning.export.loading import load, load_as
from pruning.export.onnx import save_onnx
from pruning.export.product import ExportSettings, export
from pruning.export.sparse import save_sparse

__all__ = ["ExportSettings", "export", "load", "load_as", "save_onnx", "save_sparse"]
