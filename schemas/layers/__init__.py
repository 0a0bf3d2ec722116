"""What a Caffe layer means, one module a family; `registry` says how one is declared and found."""
