"""A training step as one CUDA graph: recorded once, launched at once from then on.

The kernels of a CIFAR network take less time than Python needs to launch them; a replay launches all of them together.
"""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from pruning.errors import UserError

WARM_UP = 3  # steps as usual, in which cuDNN and cuBLAS prepare themselves and the optimizer makes its buffers
PAYS = 200  # a training of fewer steps is over before recording has paid

StepFunction = Callable[[Tensor, Tensor], None]


class Graphs:
    """Makes `step` (images, labels) by replay: a graph for each size of batch, after a few steps as usual.

    Everything that the step reads and writes must stay where it is in memory. If something in it waits for the device
    it cannot be recorded: then all steps are made as usual, and `note` is told; or UserError if it `must` be.
    """

    def __init__(self, step: StepFunction, device: torch.device, note: Callable[[str], None], *, must: bool) -> None:
        self.step, self.note, self.must = step, note, must
        self.able = True
        self.stream = torch.cuda.Stream(device)  # a graph cannot be recorded on the default stream
        self.pool = torch.cuda.graph_pool_handle()
        self.seen = Counter[int]()
        self.recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        size = len(labels)
        self.seen[size] += 1
        if self.able and self.seen[size] > WARM_UP and size not in self.recorded:
            self.try_to_record(images, labels)
        if size not in self.recorded:
            self.aside(images, labels)
            return
        graph, images_read, labels_read = self.recorded[size]
        images_read.copy_(images)
        labels_read.copy_(labels)
        graph.replay()

    def aside(self, images: Tensor, labels: Tensor) -> None:
        """Make a step as usual, on the stream of the graphs: autograd remembers the stream of each parameter."""
        current = torch.cuda.current_stream(images.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            self.step(images, labels)
        current.wait_stream(self.stream)

    def try_to_record(self, images: Tensor, labels: Tensor) -> None:
        """Record the step for batches of this size, unless that is impossible."""
        current = torch.cuda.current_stream(images.device)
        try:
            self.recorded[len(labels)] = self.record(images, labels)
        except RuntimeError as error:
            torch.cuda.set_stream(current)  # which is not done when the end of a recording fails
            self.able = False
            text = f"a step of this network cannot be recorded as a CUDA graph ({' '.join(str(error).split())[:160]})"
            if self.must:
                raise UserError(f"{text}; try env.cuda_graph=false", "env.cuda_graph") from error
            self.note(f"{text}; its steps are launched one by one")

    def record(self, images: Tensor, labels: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        """Return the graph of a step on copies of these; it is not made."""
        graph, images, labels = torch.cuda.CUDAGraph(), images.clone(), labels.clone()
        # other threads of this process may allocate meanwhile, such as the one that reads images ahead
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            self.step(images, labels)
        return graph, images, labels
