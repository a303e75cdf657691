"""SFace in PyTorch. The names of its modules are those of the published ONNX file, such as conv_2_dw_batchnorm."""

from torch import nn

# Channels and strides of the depthwise convolutions.
PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


class TorchSFace(nn.Module):
    def __init__(self, width=32, size=(112, 112), dim=128):
        super().__init__()
        self.size = size
        self._add("conv_1", 3, width, 3)
        inputs = width
        for number, (channels, stride) in enumerate(PAIRS, 2):
            outputs = channels * width // 32
            self._add(f"conv_{number}_dw", inputs, inputs, 3, stride, groups=inputs)
            self._add(f"conv_{number}", inputs, outputs, 1)
            inputs = outputs
        self.bn1 = nn.BatchNorm2d(inputs, eps=2e-5)
        self.pre_fc1 = nn.Linear(inputs * (size[0] // 16) * (size[1] // 16), dim)
        self.fc1 = nn.BatchNorm1d(dim, eps=2e-5)

    def _add(self, name, inputs, outputs, kernel, stride=1, groups=1):
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.add_module(f"{name}_conv2d", convolution)
        self.add_module(f"{name}_batchnorm", nn.BatchNorm2d(outputs, eps=1e-3))
        self.add_module(f"{name}_relu", nn.PReLU(outputs))

    def features(self, x):
        """Returns the last feature map."""
        for name, module in self.named_children():
            if name.startswith("conv_"):
                x = module(x)
        return x

    def forward(self, x):
        return self.fc1(self.pre_fc1(self.bn1(self.features(x)).flatten(1)))
