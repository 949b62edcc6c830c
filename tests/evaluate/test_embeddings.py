"""The geometry of the tables: known angles are found, and random tables show what chance is said to make."""

import pytest
import torch

from palinode import LatentConfig, gpt2, modern
from palinode.base.errors import BadInput
from palinode.base.seeds import generator
from palinode.evaluate.embeddings import check_has_embeddings, embedding_geometry

WIDTH, ROWS = 32, 64


@pytest.fixture
def model():
    return gpt2(layers=1, width=WIDTH, heads=2).build(500, ROWS, 0)


def filled(model, tokens, positions):
    with torch.no_grad():
        model.embedding.weight.copy_(tokens)
        model.position.weight.copy_(positions)
    return embedding_geometry(model)


def noise(name, rows):
    return torch.randn(rows, WIDTH, generator=generator(1, name))


def test_random_tables_are_as_chance_has_them(model):
    geometry = filled(model, noise("tokens", 500), 3 * noise("positions", ROWS))
    assert geometry["token_position_absolute_cosine"] == pytest.approx(geometry["chance_absolute_cosine"], rel=0.02)
    assert abs(geometry["token_position_cosine"]) < 0.01
    assert geometry["position_share"] == pytest.approx(geometry["chance_share"], rel=0.15)
    assert geometry["position_norm"] == pytest.approx(3 * geometry["token_norm"], rel=0.03)
    assert all(abs(cosine) < 0.1 for cosine in geometry["position_cosine_by_distance"].values())


def test_separate_and_shared_directions_are_told_apart(model):
    half = WIDTH // 2
    tokens, positions = noise("tokens", 500), noise("positions", ROWS)
    tokens[:, half:] = 0
    apart, shared = positions.clone(), positions.clone()
    apart[:, :half] = 0
    shared[:, half:] = 0
    for table, cosine, share in ((apart, 0.0, 0.0), (shared, None, 0.5)):
        geometry = filled(model, tokens, table)
        assert geometry["position_share"] == pytest.approx(share, abs=0.1)
        if cosine is not None:
            assert geometry["token_position_absolute_cosine"] == pytest.approx(cosine, abs=1e-6)


def test_neighbours_on_a_circle_are_alike_and_a_common_vector_is_no_position(model):
    angle = torch.arange(ROWS) * (torch.pi / ROWS)
    circle = torch.zeros(ROWS, WIDTH)
    circle[:, 0], circle[:, 1] = (2 * angle).cos(), (2 * angle).sin()
    geometry = filled(model, noise("tokens", 500), circle + 100.0 * noise("mean", 1))
    for distance, cosine in geometry["position_cosine_by_distance"].items():
        assert cosine == pytest.approx(float(torch.cos(torch.tensor(2 * torch.pi * int(distance) / ROWS))), abs=1e-3)
    assert geometry["position_norm_about_mean"] == pytest.approx(1.0, abs=1e-3)


def test_a_model_without_positions_has_the_tokens_numbers_alone():
    geometry = embedding_geometry(modern(layers=1, width=16, heads=2).build(50, 8, 0))
    assert set(geometry) == {"width", "token_norm"}
    check_has_embeddings(LatentConfig(layers=1, width=16).build(50, 8, 0))


def test_a_model_without_a_table_is_refused(model, monkeypatch):
    monkeypatch.setattr(type(model), "parameter_groups", lambda self: {})
    for action in (check_has_embeddings, embedding_geometry):
        with pytest.raises(BadInput, match="no table of tokens"):
            action(model)
