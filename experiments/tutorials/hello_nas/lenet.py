"""Two convolutions and two linear layers; one layer, a rate of dropout and a width are choices, as in NNI's tutorial hello_nas."""

import nni
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, MutableDropout, MutableLinear
from torch import nn


def separable(inputs: int, outputs: int) -> nn.Module:
    """A convolution of each channel by itself, and one that mixes the channels."""
    return nn.Sequential(nn.Conv2d(inputs, inputs, 3, groups=inputs), nn.Conv2d(inputs, outputs, 1))


class LeNet(ModelSpace):
    """A network for square images, which answers with logits.

    Parameters
    ----------
    image_size
        Side of the images: 28 for MNIST.
    num_classes, in_channels
        Outputs of the classifier, channels of the images.
    """

    def __init__(self, image_size: int = 28, num_classes: int = 10, in_channels: int = 1):
        super().__init__()
        width = nni.choice("width", [64, 128, 256])
        side = (image_size - 4) // 2  # of the maps: two convolutions without padding, then pooling
        self.first = nn.Conv2d(in_channels, 32, 3)
        self.second = LayerChoice({"full": nn.Conv2d(32, 64, 3), "separable": separable(32, 64)}, label="convolution")
        self.dropout_of_maps = MutableDropout(nni.choice("dropout", [0.25, 0.5, 0.75]))
        self.hidden = MutableLinear(64 * side**2, width)
        self.dropout = nn.Dropout(0.5)
        self.classifier = MutableLinear(width, num_classes)

    def forward(self, images):
        maps = nn.functional.max_pool2d(self.second(self.first(images).relu()), 2)
        features = self.hidden(self.dropout_of_maps(maps).flatten(1)).relu()
        return self.classifier(self.dropout(features))
