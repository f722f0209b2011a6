import numpy as np
import pytest

from rayreid.data.synthetic import contact_sheet, draw_crops


def test_a_sheet_shows_every_crop_of_every_domain() -> None:
    sheet = contact_sheet(["snow", "law-2"], people=2, cameras=2, height=32, width=16)
    shown = np.asarray(sheet)
    for name in ("snow", "law-2"):
        crops = draw_crops(name, people=range(2), cameras=2, crops=1, height=32, width=16)
        windows = np.lib.stride_tricks.sliding_window_view(shown, (32, 16, 3))[:, :, 0]
        for picture in np.asarray(crops.images):
            assert (windows == picture).all(axis=(2, 3, 4)).sum() == 1


def test_a_sheet_is_labelled() -> None:
    sheet = np.asarray(contact_sheet(["snow"], people=1, cameras=1, height=32, width=16))
    assert (sheet[:14] < 128).any()
    assert (sheet[:, :40] < 128).any()


def test_an_empty_sheet_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one domain"):
        contact_sheet([], people=1, cameras=1, height=32, width=16)
