"""Unpooling by positions that lie outside of the plane: an error, as in Caffe."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from stage_build.artefacts import models
from tests import nets

SHAPE = (2, 3, 4, 5)


@pytest.mark.parametrize("place", [-1, 8 * 10])
def test_a_position_outside_of_the_plane_is_an_error(place, tmp_path):
    inside = np.zeros(SHAPE, np.float32)
    content = nets.net(
        nets.inputs(data=SHAPE, like=SHAPE),
        nets.layer("Upsample", "data like", "up"),
        given={"like": inside},
    )
    network = models.import_package(nets.package(content, tmp_path)).load()
    fed = {name: tf.zeros((2, 4, 5, 3)) for name in ("data", "like")}
    outside = {**fed, "like": tf.fill((2, 4, 5, 3), float(place))}
    for run in (network, tf.function(network.model)):
        assert run(fed)["up"].shape == (2, 8, 10, 3)
        with pytest.raises(tf.errors.InvalidArgumentError, match="outside of the plane"):
            run(outside)
