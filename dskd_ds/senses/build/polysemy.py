"""Chooses how many senses a token gets.

k-means makes `num_senses` clusters of a token's states. The two clusters whose union adds least
squared error (Ward, 1963) are merged, until one is left. Of all numbers of clusters on the way, the
one is chosen that minimises the error expected on unseen states, by Akaike's final prediction error
(1970), plus a price per sense. Source: docs/method.md, "Building the dictionary".

On SmolLM2's states (40,041 vectors, 1 in 8 held out), fixed k = 10 gives 15,837 rows and a held-out
error of 1.538. At the same maximum, sense_cost 0.5, 1, 2 and 4 give 10,652, 8,522, 6,793 and 6,244
rows and errors of 1.518, 1.522, 1.540 and 1.571. Rare tokens gain most: the mean of few vectors
predicts an unseen one better than the nearest of them does.
"""

from __future__ import annotations

import torch
from torch import Tensor


def choose(
    gaps: Tensor, sizes: Tensor, errors: Tensor, min_senses: int, sense_cost: float
) -> Tensor:
    """Merge the clusters of G tokens down to the best number of senses of each.

    gaps: [G, k, k] squared distances between the clusters' means.
    sizes: [G, k] weights of the clusters; 0 if there is no cluster.
    errors: [G] squared error, summed over all points.
    sense_cost: the price of a sense, in mean squared distances of the token's vectors from their
    mean.
    Returns [G, k]: the cluster that each cluster ends up in.
    """
    costs = merge_costs(gaps, sizes)
    labels = torch.arange(sizes.shape[1], device=sizes.device).expand(len(sizes), -1)
    labels_after, errors_after = [labels], [errors]
    counts_after = [(sizes > 0).sum(dim=1)]
    sizes = sizes.clone()  # merge_cheapest changes it
    # All tokens take as many steps. A token with one cluster left repeats its last state, and
    # argmin takes the first of equal prices.
    for _ in range(sizes.shape[1] - 1):
        cost, labels = merge_cheapest(costs, sizes, labels)
        merged = torch.isfinite(cost)
        errors_after.append(errors_after[-1] + torch.where(merged, cost, 0.0))
        counts_after.append(counts_after[-1] - merged.long())
        labels_after.append(labels)
    price = prices(
        errors=torch.stack(errors_after, dim=1),
        counts=torch.stack(counts_after, dim=1),
        totals=sizes.sum(dim=1),
        min_senses=min_senses,
        sense_cost=sense_cost,
    )
    best = price.argmin(dim=1)
    return torch.stack(labels_after, dim=1)[torch.arange(len(best), device=best.device), best]


def prices(
    errors: Tensor, counts: Tensor, totals: Tensor, min_senses: int, sense_cost: float
) -> Tensor:
    """Return the price [G, steps] of each number of senses.

    errors, counts: [G, steps] squared error and number of senses after each merge.
    totals: [G] points of each token.
    The price is inf for fewer than min_senses senses, if more are possible. It is also inf for as
    many senses as points, because nothing is known of their error.
    """
    points = totals[:, None].float()
    variance = errors[:, -1:] / (points - 1).clamp_min(1)
    expected = errors * (points + counts) / (points - counts).clamp_min(1e-30)
    price = expected + sense_cost * variance * counts
    price = torch.where((counts >= points) & (counts > 1), torch.inf, price)
    minimum = torch.as_tensor(min_senses, device=counts.device)
    allowed = torch.minimum(counts[:, :1], minimum)
    price = torch.where(counts < allowed, torch.inf, price)
    # With min_senses at or above the number of points no price is finite: then take min_senses.
    nothing_finite = torch.isinf(price).all(dim=1, keepdim=True)
    return torch.where(nothing_finite & (counts == allowed), 0.0, price)


def merge_costs(gaps: Tensor, sizes: Tensor) -> Tensor:
    """Return the squared error [G, k, k] that uniting two clusters adds.

    It is inf on the diagonal and where a cluster is empty.
    """
    product = sizes[:, :, None] * sizes[:, None, :]
    total = sizes[:, :, None] + sizes[:, None, :]
    costs = gaps * product / total.clamp_min(1e-30)
    costs.masked_fill_(product == 0, torch.inf)
    costs.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return costs


def merge_cheapest(costs: Tensor, sizes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Merge two clusters of each of G tokens. Changes costs [G, k, k] and sizes [G, k] in place.

    labels: [G, k] the cluster that each original cluster is in.
    Returns the cost [G] (inf if one cluster was left and nothing was merged), and the new labels.
    Source of the recurrence: Lance and Williams (1967).
    """
    group, k = torch.arange(len(costs), device=costs.device), costs.shape[1]
    cost, flat = costs.flatten(1).min(dim=1)
    kept, gone = torch.minimum(flat // k, flat % k), torch.maximum(flat // k, flat % k)
    united = _costs_of_union(costs, sizes, kept=kept, gone=gone, cost=cost)
    # Only tokens with at least two clusters left.
    possible = torch.isfinite(cost)
    group, kept, gone, united = group[possible], kept[possible], gone[possible], united[possible]
    costs[group, kept] = costs[group, :, kept] = united
    costs[group, gone] = costs[group, :, gone] = torch.inf
    costs[group, kept, kept] = torch.inf
    sizes[group, kept] += sizes[group, gone]
    sizes[group, gone] = 0
    labels = labels.clone()
    labels[group] = torch.where(labels[group] == gone[:, None], kept[:, None], labels[group])
    return cost, labels


def _costs_of_union(
    costs: Tensor, sizes: Tensor, kept: Tensor, gone: Tensor, cost: Tensor
) -> Tensor:
    """Return the cost [G, k] of merging the union of two clusters with each other cluster.

    kept, gone: [G] the two clusters of each token. cost: [G] what their union costs.
    """
    group = torch.arange(len(costs), device=costs.device)
    kept_size, gone_size = sizes[group, kept][:, None], sizes[group, gone][:, None]
    kept_costs, gone_costs = costs[group, kept], costs[group, gone]
    weighted = (
        (kept_size + sizes) * kept_costs + (gone_size + sizes) * gone_costs - sizes * cost[:, None]
    )
    united = weighted / (kept_size + gone_size).add(sizes).clamp_min(1e-30)
    return torch.where(torch.isfinite(kept_costs) & torch.isfinite(gone_costs), united, torch.inf)
