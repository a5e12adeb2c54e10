"""The pruned network as a product: small to store, ready to run elsewhere, and said what it is."""

from pruning.export.loading import load
from pruning.export.onnx import save_onnx
from pruning.export.sparse import save_sparse

__all__ = ["load", "save_onnx", "save_sparse"]
