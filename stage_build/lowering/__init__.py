"""How a Caffe layer becomes a call in the generated class, one module a family."""
