"""What the page of scale says follows from its formulas, and the bound of rounding holds."""

import json

import numpy as np
import pytest
import scale

from batchnorm_mechanics.doctor.pools import Pool

NETWORK = {"latency": 1e-3, "bandwidth": 1e6}


def test_a_ring_sends_what_its_messages_carry():
    # Eight replicas: each message is an eighth of all, and goes from one to the next.
    sent, seconds = scale.ring(8, 800, NETWORK, rounds=1)
    assert sent == 7 * 100
    assert seconds == pytest.approx(7 * 1e-3 + 700e-6)
    assert scale.ring(8, 800, NETWORK, rounds=2) == pytest.approx((2 * sent, 2 * seconds))


def test_a_step_exchanges_what_the_layers_pack():
    # Of 10 channels four numbers of each of two replicas, once around twice, and two summed ones.
    sent, seconds = scale.step([10], 2, NETWORK)
    assert sent == 2 * 4 * 10 * 4 + 2 * 10 * 4
    assert seconds == pytest.approx(4 * 1e-3 + sent / 1e6)
    assert scale.step([10], 2, NETWORK, gather=True)[0] == 4 * 10 * 4 + 2 * 10 * 4
    assert scale.step([10, 10], 2, NETWORK)[1] == pytest.approx(2 * seconds)


def test_the_networks_of_the_record_are_those_of_the_papers():
    channels = json.loads(scale.RECORD.read_text(encoding="utf-8"))["channels"]
    # One after each of 53 convolutions; and of 16 blocks with two or three, a stem and a top.
    assert len(channels["ResNet-50"]) == 53
    assert channels["ResNet-50"][0] == 64
    assert max(channels["ResNet-50"]) == 2048
    assert len(channels["EfficientNet-B0"]) == 2 + 2 + 15 * 3
    assert channels["EfficientNet-B0"][-1] == 1280


def test_a_latency_and_a_bandwidth_are_found_again():
    exact = {
        str(size): {"least": scale.ring(2, size, NETWORK, rounds=2)[1]}
        for size in (0, 1000, 100_000)
    }
    assert scale.network_of(exact) == pytest.approx(NETWORK)


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_the_error_of_many_workers_lies_within_the_bound(mean):
    found = scale.pooled(mean, seed=1, workers=64, batches=50)
    assert found["samples"] == 64 * 50 * 1000
    assert 0 < found["mean"] <= found["mean_bound"]
    assert 0 < found["variance"] <= found["variance_bound"]


def test_pools_that_lose_digits_fall_outside_of_the_bound(monkeypatch):
    class Narrow(Pool):
        def add(self, *said):
            super().add(*said)
            self.mean = self.mean.astype(np.float32).astype(np.float64)

    monkeypatch.setattr("batchnorm_mechanics.doctor.pools.Pool", Narrow)
    found = scale.pooled(1e4, seed=1, workers=8, batches=10)
    assert found["mean"] > found["mean_bound"]
    assert found["variance"] > found["variance_bound"]
