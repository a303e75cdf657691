"""A small network with the layer names of `keras.applications.ResNet50`."""

import keras


def small_resnet(include_top, weights, input_shape):
    """Replaces `keras.applications.ResNet50` in tests. It has a border of zeros, and a last stage with a shortcut."""
    assert not include_top
    images = keras.Input(input_shape)
    x = keras.layers.ZeroPadding2D(3, name="conv1_pad")(images)
    x = keras.layers.Conv2D(4, 7, strides=4, name="conv1_conv")(x)
    x = keras.layers.BatchNormalization(name="conv1_bn")(x)
    shortcut = keras.layers.Conv2D(6, 1, strides=2, name="conv5_block1_0_conv")(x)
    x = keras.layers.Conv2D(6, 1, strides=2, name="conv5_block1_1_conv")(x)
    x = keras.layers.Conv2D(6, 3, padding="same", name="conv5_block1_2_conv")(x)
    network = keras.Model(images, keras.layers.Add()([shortcut, x]), name="resnet50")
    if weights == "imagenet":
        keras.utils.set_random_seed(9)
        network.set_weights([keras.random.uniform(weight.shape) for weight in network.weights])
    return network
