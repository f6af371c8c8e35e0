"""The weights that a loss really has, solved for from values of its terms."""

import torch
from pyro.poutine.messenger import Messenger


class Unscaled(Messenger):
    """Take the scales off all sites, so that the loss is a sum of the terms as they are named."""

    def _pyro_sample(self, msg):
        msg["scale"] = msg["infer"]["_beta"] = 1.0


def assert_weights_are_the_losss(calls):
    """Compare the weights that an objective returns with those that fit many calls of it, in double precision."""
    with Unscaled():
        rows = [call() for call in calls]
    returned = rows[0].weights
    assert all(row.weights == returned for row in rows)
    assert 0.0 not in returned.values()
    values = {name: torch.stack([row[name].detach().double() for row in rows]) for name in rows[0]}
    table = torch.stack([values[name] for name in returned], dim=1) if returned else torch.zeros(len(rows), 0).double()
    expected = torch.tensor(list(returned.values()), dtype=torch.float64)
    torch.testing.assert_close(values["loss"], table @ expected, rtol=1e-6, atol=1e-9)
    if torch.linalg.matrix_rank(table) == len(returned):  # else other weights would do as well
        solution = torch.linalg.lstsq(table, values["loss"][:, None]).solution[:, 0]
        torch.testing.assert_close(solution, expected, rtol=1e-5, atol=1e-6)
