"""What goes on inside a network: cut it short, and any tensor on the way is its output."""

from __future__ import annotations

import numpy as np
from drawing import overlay

from emberfleet.core.arrays import Array, Float32, Float64, Int64, UInt8
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D, GlobalAveragePool, Reshape
from emberfleet.engine.backend import Backend
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.loop import predict
from emberfleet.train.trained import TrainedModel


def pooled_features(backend: Backend, model: TrainedModel, images: UInt8) -> Float32:
    """``(N, C)``: the means over the image of what the last convolution reads."""
    nodes = list(model.graph.nodes)
    head = _head(model.graph)
    kept = nodes[: nodes.index(head)]
    cut = Graph((*kept, GlobalAveragePool("features", head.inputs)))
    return _run(backend, model, cut, images)


def place_scores(backend: Backend, model: TrainedModel, images: UInt8) -> Float32:
    """``(N, h, w, K)``: the score of every class at every place; their mean over places is the logit."""
    nodes = list(model.graph.nodes)
    head = _head(model.graph)
    h, w, k = model.graph.shapes[head.name]
    # A network may answer with a vector for each of P positions; here the positions are the places.
    cut = Graph((*nodes[: nodes.index(head) + 1], Reshape("places", (head.name,), (h * w, k))))
    return _run(backend, model, cut, images).reshape(-1, h, w, k)


def evidence_maps(
    backend: Backend, model: TrainedModel, images: UInt8, answers: Int64, others: Int64
) -> list[UInt8]:
    """For each image, what speaks at each place for its answer rather than for the other class."""
    scores = place_scores(backend, model, images)
    image = np.arange(len(images))
    # Only differences between classes change the answer, so one score alone would say little.
    evidence = scores[image, :, :, answers] - scores[image, :, :, others]
    return [overlay(picture, part) for picture, part in zip(images, evidence, strict=True)]


def principal_axes(features: Float32, count: int) -> tuple[Float64, float]:
    """The features on their `count` axes of largest variance, and the share of it that these hold."""
    centred = (features - features.mean(axis=0)).astype(np.float64)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    return centred @ axes[:, : -count - 1 : -1], float(variances[-count:].sum() / variances.sum())


def _head(graph: Graph) -> Conv2D:
    return [node for node in graph.nodes if isinstance(node, Conv2D)][-1]


def _run(backend: Backend, model: TrainedModel, graph: Graph, images: UInt8) -> Float32:
    needed = {name: model.tensors[name] for name in (*graph.parameters, *graph.state)}
    labels: Array = np.zeros(len(images), np.int64)
    return predict(backend, graph, needed, model.preprocessing, Dataset(images, labels, model.classes))
