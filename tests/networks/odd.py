"""Networks that people bring: kinds of layers that ours have not; not on the path of the project."""

from torch import Tensor, nn


class Odd(nn.Module):
    """Grouped, shared and transposed convolutions, GroupNorm and dropout, for images of any even size."""

    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.norm = nn.GroupNorm(2, width)
        self.first = nn.Conv2d(width, width, 3, padding=1, groups=2)
        self.second = nn.Conv2d(width, width, 3, padding=1, groups=2)
        self.second.weight = self.first.weight
        self.up = nn.ConvTranspose2d(width, width, 2, 2)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.stem(images)).relu()
        x = self.second(self.first(x).relu()).relu()
        logits: Tensor = self.fc(self.drop(self.up(x).relu().mean((2, 3))))
        return logits


class Attention(nn.Module):
    """Four tokens through torch's own attention, with LayerNorm."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 16, 16)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.patches(images).flatten(2).transpose(1, 2))
        logits: Tensor = self.fc((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))
        return logits


def mlp(num_classes: int, hidden: int = 16) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))


def without_classes() -> nn.Module:
    return mlp(7)


def no_network(num_classes: int) -> int:
    return num_classes


def lazy(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


def pair(num_classes: int) -> nn.Module:
    class Pair(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images, images

    return Pair()


def fails(num_classes: int) -> nn.Module:
    raise RuntimeError(f"no network\nfor {num_classes} classes today")


def with_weights(num_classes: int = 5, weights: str | None = None) -> nn.Module:
    """As torchvision's constructors: with weights it must be left with its own classes."""
    if weights and num_classes != 5:
        raise ValueError("with weights there are 5 classes")
    network = mlp(num_classes)
    if weights:
        nn.init.constant_(network.get_parameter("1.weight"), 0.25)
    return network
