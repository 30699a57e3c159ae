"""The ledger of an evaluation."""

from rsic_diffusers.evaluation.ledger import Ledger


def test_the_latest_of_two_processes_counts(tmp_path):
    Ledger(tmp_path, 1).add("a", "m", 1.0, {"T": 10}, error="no memory")
    Ledger(tmp_path, 0).add("a", "m", 1.0, {"T": 10}, caption="a\u2028b")
    assert Ledger(tmp_path).get("a", "m", 1.0)["caption"] == "a\u2028b"


def test_ledger_starts_anew_under_other_settings_and_after_errors(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.add("a", "m", 1.0, {"T": 10}, psnr=20.0)
    ledger.add("a", "m", 1.0, {"T": 10}, ssim=0.5)
    again = Ledger(tmp_path)
    assert again.get("a", "m", 1.0, {"T": 10})["psnr"] == 20.0 and again.get("a", "m", 1.0, {"T": 10})["ssim"] == 0.5
    assert again.get("a", "m", 1.0, {"T": 20}) == {}
    again.add("a", "m", 1.0, {"T": 20}, ssim=0.6)
    assert "psnr" not in Ledger(tmp_path).get("a", "m", 1.0, {"T": 20})
    again.add("a", "m", 1.0, {"T": 20}, error="no")
    assert Ledger(tmp_path).get("a", "m", 1.0, {"T": 20}) == {}
