"""What is not done yet, and why: each entry is a layer type or a golden case with its reason."""

WAITING = {
    # Layer types without a meaning.
    "BatchReindex": "gathers rows by index",
    "Clip": "no meaning yet",
    "Embed": "no meaning yet",
    "Filter": "the batch size depends on the data",
    "Im2col": "no meaning yet",
    "LSTM": "recurrent",
    "MVN": "no meaning yet",
    "Parameter": "a blob without a layer before it",
    "RNN": "recurrent",
    "Reduction": "no meaning yet",
    "SPP": "no meaning yet",
    "Swish": "no meaning yet",
    "Threshold": "no meaning yet",
    "Tile": "no meaning yet",
    # Forms of supported types.
    "layers/conv-1d": "convolution over one spatial axis",
    "layers/conv-3d": "convolution over three spatial axes",
    "layers/dummydata": "constant data",
    "layers/accuracy": "losses and scores as outputs",
    "layers/accuracy-per-class": "losses and scores as outputs",
    "layers/accuracy-top3": "losses and scores as outputs",
    "layers/loss-contrastive": "losses and scores as outputs",
    "layers/loss-euclidean": "losses and scores as outputs",
    "layers/loss-hinge": "losses and scores as outputs",
    "layers/loss-hinge-l2": "losses and scores as outputs",
    "layers/loss-sigmoid-ce": "losses and scores as outputs",
    "layers/loss-softmax": "losses and scores as outputs",
    "layers/loss-softmax-ignore": "losses and scores as outputs",
    "layers/pool-max-mask": "pooling's second top",
}

# Cases whose meaning is there, but not their form in TensorFlow.
WAITING_FOR_LOWERING = {
    "layers/conv-axis2": "convolution with its channels on another axis",
    "layers/conv-multi-bottom": "convolution with several bottoms",
}

# Layers that change no value: compared exactly where they stand alone.
EXACT_TYPES = ("ArgMax", "Concat", "Crop", "Flatten", "Reshape", "Slice", "Split")
