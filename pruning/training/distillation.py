"""Learning from other networks: the loss that softens what they say (Hinton et al. 2015, arXiv 1503.02531)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def averaged(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """Return the mean over the teachers of softmax(z / temperature), N x C, from logits z of N x C each."""
    return torch.stack([F.softmax(each / temperature, dim=1) for each in logits]).mean(0)


def soft_loss(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(wanted || softmax(z / T)) in nats, the mean over the images; both arguments are N x C.

    Its gradient for one image is T (softmax(z / T) - wanted): T^2 keeps it from shrinking as the temperature T grows.
    """
    said = F.log_softmax(logits / temperature, dim=1)
    return temperature**2 * F.kl_div(said, wanted, reduction="batchmean")


@dataclass(frozen=True)
class Distillation:
    """The loss (1 - weight) CE + weight T^2 KL(mean of the teachers' softmax(z_i / T) || softmax(z / T)).

    An ensemble of snapshots as the teacher: Le and Hua 2020, arXiv 2006.11487. The teachers, on the device of the
    images and in evaluation mode, see the batch that the student sees; under autocast they compute as it does.
    """

    teachers: Sequence[nn.Module]
    temperature: float  # > 0
    weight: float  # in (0, 1]
    label_smoothing: float = 0.0  # of the cross entropy alone

    def __call__(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        with torch.inference_mode():
            said = averaged([teacher(images).float() for teacher in self.teachers], self.temperature)
        soft = soft_loss(logits.float(), said.clone(), self.temperature)  # autograd takes no inference tensor
        hard = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return (1 - self.weight) * hard + self.weight * soft
