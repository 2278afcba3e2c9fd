"""The count of live bytes, on computations whose memory is known by hand."""

from __future__ import annotations

import torch
from torch import nn

from posttrain.runtime.fake_tensors import give_tensors, pretending

MB = 2**20


def numbers(megabytes: int) -> torch.Tensor:
    """A tensor of fp32 of that many MB."""
    return torch.zeros(megabytes * MB // 4)


def test_the_peak_counts_what_lives_at_once():
    """8 MB and 4 MB together make 12; once the 8 are gone, another 6 make 10, which is no new peak."""
    with pretending() as live:
        live.begin()
        first, second = numbers(8), numbers(4)
        del first
        third = numbers(6)
        assert (live.live, live.peak) == (10 * MB, 12 * MB)
        del second, third
        assert live.live == 0


def test_a_view_is_no_memory_and_keeps_what_it_looks_at():
    with pretending() as live:
        whole = numbers(4)
        half = whole[: len(whole) // 2]
        assert live.live == 4 * MB
        del whole
        assert live.live == 4 * MB
        del half
        assert live.live == 0


def test_a_backward_pass_by_hand():
    """y = tanh(x W) for x [1024, 512] and W [512, 1024]: x and W have 2 MB each. x W (4 MB) and y (4 MB) live together, then y
    alone, which the backward pass needs. After it the gradient of W (2 MB) is left."""
    with pretending() as live:
        x, weight = torch.zeros(1024, 512), nn.Parameter(torch.zeros(512, 1024))
        before = live.begin()
        assert before == 4 * MB
        y = torch.tanh(x @ weight)
        assert live.live - before == 4 * MB
        assert live.peak - before == 8 * MB
        y.sum().backward()
        assert weight.grad is not None
        del y
        assert live.live - before == 2 * MB


def test_masks_pick_as_many_rows_as_they_do():
    """Shapes that follow from values need the values: integers and truth values are computed."""
    with pretending():
        mask = torch.arange(10) < 3
        assert numbers(1)[:10][mask].shape == (3,)


def test_tied_tensors_stay_tied():
    with torch.device("meta"):
        first, second = nn.Linear(256, 1024, bias=False), nn.Linear(256, 1024, bias=False)
        second.weight = first.weight
    with pretending() as live:
        give_tensors(nn.ModuleList([first, second]))
        assert first.weight is second.weight
        assert live.live == MB


def test_virtual_tokens_of_a_soft_prompt_have_their_numbers():
    """peft holds them in a dict; a table of 5 rows is read at each."""
    with torch.device("meta"):
        model = nn.Embedding(5, 8)
        model.prompt_tokens = {"default": torch.arange(5)}
    with pretending():
        give_tensors(model)
        assert model.prompt_tokens["default"].tolist() == [0, 1, 2, 3, 4]
        assert model(model.prompt_tokens["default"]).shape == (5, 8)
