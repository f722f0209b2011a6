"""One gallery crop an identity, drawn at random: the CMC of CUHK03's classic protocol."""

import numpy as np
from jaxtyping import Int, Int64, Shaped


class SingleShot:
    """Galleries with one crop of every identity.

    A draw puts the gallery's crops in a random order and takes the first of each identity that is
    no junk for the query, so all queries see the same draw of whom they do not show. (Published
    code draws anew for each query: the expectation is the same.)
    """

    def __init__(self, gallery_identities: Int[np.ndarray, " g"], repeats: int, seed: int):
        rng = np.random.default_rng(seed)
        orders = [rng.permutation(len(gallery_identities)) for _ in range(repeats)]
        self._places = np.argsort(orders, axis=1)
        self._identities = np.unique(gallery_identities)
        self._drawn = np.array(
            [order[np.unique(gallery_identities[order], return_index=True)[1]] for order in orders]
        )

    def first_ranks(
        self, row: Shaped[np.ndarray, " g"], identity: int, positives: Int[np.ndarray, " k"]
    ) -> Int64[np.ndarray, " repeats"]:
        """Return the rank of the match in each draw, by the scores of a query of ``identity``.

        ``positives`` are the gallery crops that match, at least one; ties rank before it.
        """
        match = positives[np.argmin(self._places[:, positives], axis=1)]
        others = np.delete(self._drawn, np.searchsorted(self._identities, identity), axis=1)
        before: np.ndarray = np.count_nonzero(row[others] >= row[match][:, None], axis=1)
        return 1 + before
