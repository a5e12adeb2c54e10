"""The loss of a distillation against its formula."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from pruning.training import Distillation
from pruning.training.distillation import averaged, soft_loss
from tests import reference


class Says(nn.Module):
    """A teacher that says the same whatever it sees."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, _images: Tensor) -> Tensor:
        return self.logits


def drawn(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [3 * torch.randn(6, 5, generator=generator) for _ in range(count)]


IMAGES, LABELS = torch.zeros(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])


def loss(teachers: Sequence[Tensor], student: Tensor, temperature: float, weight: float) -> Tensor:
    return Distillation([Says(each) for each in teachers], temperature, weight)(IMAGES, student, LABELS)


@pytest.mark.parametrize("weight", [0.3, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("count", [1, 3])
def test_the_loss_is_that_of_the_papers(count: int, temperature: float, weight: float) -> None:
    *teachers, student = drawn(count + 1)
    expected = reference.distilled(teachers, student, LABELS, temperature, weight)
    assert float(loss(teachers, student, temperature, weight)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(teachers[::-1], student, temperature, weight)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_of_the_soft_part_is_the_difference_of_what_is_said(temperature: float) -> None:
    *teachers, student = (each.double() for each in drawn(3))
    student.requires_grad_()
    wanted = averaged(teachers, temperature)
    soft_loss(student, wanted, temperature).backward()
    said = averaged([student.detach()], temperature)
    torch.testing.assert_close(student.grad, temperature * (said - wanted) / len(student), rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(lambda z: soft_loss(z, wanted, temperature), (student,))


def test_a_teacher_that_says_what_the_student_says_changes_nothing() -> None:
    (student,) = drawn(1)
    student.requires_grad_()
    loss([student.detach().clone()], student, 4.0, 1.0).backward()
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-7
