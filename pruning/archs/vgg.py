"""VGG for 32x32 images (Simonyan and Zisserman 2014, arXiv 1409.1556), with BatchNorm and a small head."""

from torch import Tensor, nn

# Convolutions in each of the five stages: configurations D and E of the paper.
CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """3x3 convolutions without bias, BatchNorm and ReLU; then a head 512-512-classes with BatchNorm1d.

    In training mode a batch holds at least 2 images, because of the BatchNorm1d.
    """

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        self.feature = nn.Sequential(*_feature_layers(CONVOLUTIONS[depth]))
        self.classifier = nn.Sequential(
            nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map N x 3 x H x W, H and W at least 16, to N x num_classes logits."""
        return self.classifier(self.feature(x).mean((2, 3)))


def _feature_layers(convolutions: tuple[int, ...]) -> list[nn.Module]:
    """Return the layers in order, a 2x2 max-pool between stages; their positions are part of the parameter names."""
    layers: list[nn.Module] = []
    inputs = 3
    for stage, (outputs, repeats) in enumerate(zip(CHANNELS, convolutions, strict=True)):
        if stage > 0:
            layers.append(nn.MaxPool2d(2))
        for _ in range(repeats):
            conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            inputs = outputs
    return layers
