"""GhostFaceNets in PyTorch. The names of the modules are those of ellzaf_ml's port of the published Keras networks."""

import torch
from torch import nn
from torch.nn import functional

# Kernel, expanded channels, output channels, squeeze-and-excitation and stride of each bottleneck.
STAGES = (
    ((3, 16, 16, False, 1),),
    ((3, 48, 24, False, 2),),
    ((3, 72, 24, False, 1),),
    ((5, 72, 40, True, 2),),
    ((5, 120, 40, True, 1),),
    ((3, 240, 80, False, 2),),
    (
        (3, 200, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 480, 112, True, 1),
        (3, 672, 112, True, 1),
    ),
    ((5, 672, 160, True, 2),),
    ((5, 960, 160, False, 1), (5, 960, 160, True, 1), (5, 960, 160, False, 1), (5, 960, 160, True, 1)),
)


def scaled(channels, width):
    rounded = max(4, int(channels * width + 2) // 4 * 4)
    return rounded if rounded >= 0.9 * channels * width else rounded + 4


class SamePadding(nn.Conv2d):
    """A convolution that pads like TensorFlow: more on the far side."""

    def forward(self, x):
        padding = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return functional.conv2d(functional.pad(x, padding), self.weight, None, self.stride, 0, 1, self.groups)


def depthwise(channels, kernel, stride=1, version=2):
    if version == 1:
        return SamePadding(channels, channels, kernel, stride, groups=channels, bias=False)
    return nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)


class GhostModule(nn.Module):
    def __init__(self, inputs, outputs, activated=True, gated=False):
        super().__init__()
        half = outputs // 2
        self.primary_conv = nn.Sequential(nn.Conv2d(inputs, half, 1, bias=False), nn.BatchNorm2d(half))
        self.cheap_operation = nn.Sequential(depthwise(half, 3), nn.BatchNorm2d(half))
        if activated:
            self.primary_conv.append(nn.PReLU(half))
            self.cheap_operation.append(nn.PReLU(half))
        if gated:
            self.short_conv = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.Conv2d(outputs, outputs, (1, 5), padding=(0, 2), groups=outputs, bias=False),
                nn.BatchNorm2d(outputs),
                nn.Conv2d(outputs, outputs, (5, 1), padding=(2, 0), groups=outputs, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x):
        first = self.primary_conv(x)
        y = torch.cat([first, self.cheap_operation(first)], dim=1)
        if hasattr(self, "short_conv"):
            gate = torch.sigmoid(self.short_conv(functional.avg_pool2d(x, 2)))
            y = y * functional.interpolate(gate, size=y.shape[2:], mode="bilinear")
        return y


class Excite(nn.Module):
    def __init__(self, channels, version):
        super().__init__()
        self.version, reduced = version, scaled(channels, 0.25)
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.act1 = nn.PReLU(reduced)
        self.conv_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x):
        y = self.conv_expand(self.act1(self.conv_reduce(x.mean((2, 3), keepdim=True))))
        # The hard sigmoid of TensorFlow 2, with which the published V1 was trained, has another slope.
        return x * torch.clip(y / (5 if self.version == 1 else 6) + 0.5, 0, 1)


class Bottleneck(nn.Module):
    def __init__(self, inputs, expanded, outputs, kernel, excited, stride, gated, version):
        super().__init__()
        self.ghost1 = GhostModule(inputs, expanded, gated=gated)
        if stride > 1:
            self.conv_dw = depthwise(expanded, kernel, stride, version)
            self.bn_dw = nn.BatchNorm2d(expanded)
        if excited:
            self.se = Excite(expanded, version)
        self.ghost2 = GhostModule(expanded, outputs, activated=False)
        self.shortcut = nn.Sequential()
        if inputs != outputs or stride > 1:
            self.shortcut = nn.Sequential(
                depthwise(inputs, kernel, stride, version),
                nn.BatchNorm2d(inputs),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x):
        y = self.ghost1(x)
        if hasattr(self, "conv_dw"):
            y = self.bn_dw(self.conv_dw(y))
        if hasattr(self, "se"):
            y = self.se(y)
        return self.ghost2(y) + self.shortcut(x)


class ConvBnAct(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn1, self.act1 = nn.BatchNorm2d(outputs), nn.PReLU(outputs)

    def forward(self, x):
        return self.act1(self.bn1(self.conv(x)))


class Classifier(nn.Module):
    def __init__(self, channels, kernel, dim):
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, kernel, groups=channels, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, dim, 1, bias=False)
        self.bn2 = nn.BatchNorm1d(dim)

    def forward(self, x):
        return self.bn2(self.conv(self.bn1(self.conv_dw(x))).flatten(1))


class TorchGhostFaceNet(nn.Module):
    def __init__(self, version, width=1.3, size=(112, 112), stem_stride=1, dim=512):
        super().__init__()
        self.size = size
        inputs = scaled(16, width)
        convolution = SamePadding if version == 1 else nn.Conv2d
        self.conv_stem = convolution(3, inputs, 3, stem_stride, 1, bias=False)
        self.bn1, self.act1 = nn.BatchNorm2d(inputs), nn.PReLU(inputs)
        stages, number, last = [], 0, scaled(512 if version == 1 else 960, width)
        for stage in STAGES:
            blocks = []
            for kernel, expanded, outputs, excited, stride in stage:
                number += 1
                expanded = last if number == 16 else scaled(expanded, width)
                outputs = scaled(outputs, width)
                gated = version == 2 and number > 2
                blocks.append(Bottleneck(inputs, expanded, outputs, kernel, excited, stride, gated, version))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages, nn.Sequential(ConvBnAct(inputs, last)))
        self.classifier = Classifier(last, tuple(-(-side // (16 * stem_stride)) for side in size), dim)

    def forward(self, x):
        return self.classifier(self.blocks(self.act1(self.bn1(self.conv_stem(x)))))
