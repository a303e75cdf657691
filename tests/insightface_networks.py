"""Small PyTorch networks whose parameters have the names and the order of arcface_torch, or of AdaFace and CVLface."""

import torch
from torch import nn


def conv(inputs, outputs, kernel, stride=1, padding=None, groups=1):
    padding = kernel // 2 if padding is None else padding
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)


class IBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = conv(outputs, outputs, 3, stride)
        self.bn3 = nn.BatchNorm2d(outputs)
        if stride > 1:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(y)) + (self.downsample(x) if hasattr(self, "downsample") else x)


class TorchIResNet(nn.Module):
    def __init__(self, blocks=(2, 1, 1, 1), width=16, size=(32, 32), dim=24):
        super().__init__()
        self.conv1, self.bn1, self.prelu = conv(3, width, 3), nn.BatchNorm2d(width), nn.PReLU(width)
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            stages = [IBlock(inputs if block == 0 else outputs, outputs, 1 + (block == 0)) for block in range(count)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*stages))
            inputs = outputs
        self.bn2, self.dropout = nn.BatchNorm2d(inputs), nn.Dropout(0.4)
        self.fc = nn.Linear(inputs * -(-size[0] // 16) * -(-size[1] // 16), dim)
        self.features = nn.BatchNorm1d(dim)
        self.size = size

    def forward(self, x):
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(self.dropout(torch.flatten(self.bn2(x), 1))))


class CVLfaceBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        shortcut = [conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)]
        self.shortcut_layer = nn.MaxPool2d(1, stride) if inputs == outputs else nn.Sequential(*shortcut)
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            conv(inputs, outputs, 3),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            conv(outputs, outputs, 3, stride),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x):
        return self.res_layer(x) + self.shortcut_layer(x)


class TorchCVLface(nn.Module):
    def __init__(self, blocks=(2, 1, 2, 1), width=16, size=(32, 32), dim=24):
        super().__init__()
        self.input_layer = nn.Sequential(conv(3, width, 3), nn.BatchNorm2d(width), nn.PReLU(width))
        channels = [width * 2**stage for stage, count in enumerate(blocks) for _ in range(count)]
        first = [sum(blocks[:stage]) for stage in range(4)]
        units = [
            CVLfaceBlock(inputs, outputs, 1 + (number in first))
            for number, (inputs, outputs) in enumerate(zip([width, *channels], channels, strict=False))
        ]
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(channels[-1]),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(channels[-1] * (size[0] // 16) * (size[1] // 16), dim),
            nn.BatchNorm1d(dim, affine=False),
        )
        self.body = nn.Sequential(*units)
        self.size = size

    def forward(self, x):
        return self.output_layer(self.body(self.input_layer(x)))


class Layers(nn.Module):
    def __init__(self, *layers, residual=False):
        super().__init__()
        self.layers, self.residual = nn.Sequential(*layers), residual

    def forward(self, x):
        return self.layers(x) + x if self.residual else self.layers(x)


def unit(inputs, outputs, kernel=1, stride=1, padding=None, groups=1, prelu=True):
    convolution = conv(inputs, outputs, kernel, stride, padding, groups)
    return Layers(convolution, nn.BatchNorm2d(outputs), *([nn.PReLU(outputs)] if prelu else []))


def bottleneck(inputs, outputs, expanded, stride=1):
    return Layers(
        unit(inputs, expanded),
        unit(expanded, expanded, 3, stride, groups=expanded),
        unit(expanded, outputs, prelu=False),
        residual=stride == 1,
    )


class TorchMobileFaceNet(nn.Module):
    def __init__(self, blocks=(1, 1, 2, 1), scale=2, size=(32, 32), dim=24):
        super().__init__()
        narrow, wide = 64 * scale, 128 * scale

        def repeated(count, channels, expanded):
            return Layers(*(bottleneck(channels, channels, expanded) for _ in range(count)))

        self.layers = nn.Sequential(
            unit(3, narrow, 3, stride=2),
            unit(narrow, narrow, 3, groups=64) if blocks[0] == 1 else repeated(blocks[0], narrow, 128),
            bottleneck(narrow, narrow, 128, stride=2),
            repeated(blocks[1], narrow, 128),
            bottleneck(narrow, wide, 256, stride=2),
            repeated(blocks[2], wide, 256),
            bottleneck(wide, wide, 512, stride=2),
            repeated(blocks[3], wide, 256),
        )
        self.conv_sep = unit(wide, 512)
        kernel = -(-size[0] // 16)
        self.features = Layers(
            unit(512, 512, kernel, padding=0, groups=512, prelu=False),
            nn.Flatten(),
            nn.Linear(512, dim, bias=False),
            nn.BatchNorm1d(dim),
        )
        self.size = size

    def forward(self, x):
        return self.features(self.conv_sep(self.layers(x)))


def randomize(network, images, seed=0):
    """Sets random slopes, scales and offsets, and statistics of BatchNorm that are near those of the images."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in network.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for module in network.modules():
        if isinstance(module, nn.PReLU):
            module.weight.data.uniform_(0, 0.5, generator=generator)
    for norm in norms:
        norm.momentum = 1.0
        if norm.weight is None:
            continue
        if norm.weight.requires_grad:
            norm.weight.data.uniform_(0.5, 1.5, generator=generator)
        norm.bias.data.normal_(0, 0.3, generator=generator)
    with torch.no_grad():
        network.train()(pixels(images))
    for norm in norms:
        spread = norm.running_var.sqrt()
        norm.running_mean += 0.3 * spread * torch.randn(spread.shape, generator=generator)
        norm.running_var *= torch.empty_like(spread).uniform_(0.5, 2, generator=generator)
    return network.eval()


def pixels(images):
    """Converts RGB in 0..255 `(n, height, width, 3)` to the inputs of arcface_torch's networks."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def embed(network, images):
    with torch.no_grad():
        return network(pixels(images)).numpy()
