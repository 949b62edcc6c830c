"""The user's settings in config.toml: read as written, and refused by file and field in one line."""

import pytest

from palinode.base.errors import BadInput
from palinode.base.user_settings import ExecutorTable, user_settings

WHOLE = """
[store]
keep = "weights"
[executor.lab]
kind = "slurm"
options = { partition = "gpu", timeout_min = 240 }
setup = ["source /shared/venv/bin/activate"]
processes = 4
parallel = "fsdp2"
price_per_hour = 2.0
[prices]
"NVIDIA A100-SXM4-80GB" = 1.8
cpu = 0
currency = "EUR"
"""


def test_every_setting_is_read(tmp_path):
    path = tmp_path / "config.toml"
    assert user_settings(path).executors == {}
    path.write_text(WHOLE)
    settings = user_settings(path)
    setup, options = ["source /shared/venv/bin/activate"], {"partition": "gpu", "timeout_min": 240}
    assert settings.executors == {"lab": ExecutorTable("slurm", options, setup, 4, "fsdp2", 2.0)}
    assert settings.prices == {"NVIDIA A100-SXM4-80GB": 1.8, "cpu": 0}
    assert (settings.keep, settings.currency) == ("weights", "EUR")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[executor.lab]\nkind = 'slrum'", "executor.lab.kind: 'slrum' is none of local, slurm, ray"),
        ("[executor.lab]\nkind = 'slurm'\noption = {}", "executor.lab: unknown key 'option' (did you mean 'options'?)"),
        ("[executor.lab]\nkind = 'slurm'\noptions = 3", "executor.lab.options: is not a table"),
        ("[executor.lab]\nkind = 'slurm'\nsetup = 'source x'", "executor.lab.setup: must be a list"),
        ("[executor.lab]\nkind = 'slurm'\nprocesses = 0", "executor.lab.processes: 0 is no number of processes"),
        ("[executor.lab]\nkind = 'slurm'\nprocesses = true", "executor.lab.processes: True is no number of processes"),
        ("[executor.lab]\nkind = 'slurm'\nprocesses = 2\nparallel = 'dp'", "parallel: 'dp' is none of ddp, fsdp2"),
        ("[executor.lab]\nkind = 'slurm'\nparallel = 'ddp'", "executor.lab.parallel: one process shares no run"),
        ("[executor.lab]\nkind = 'ray'\nprice_per_hour = 2", "executor.lab.price_per_hour: is a price without a unit"),
        ("[executor.lab]\nkind = 'ray'\nprice_per_hour = '2 EUR'", "'2 EUR' is no price of an hour (a number"),
        ("[prices]\ncpu = 0.1", 'prices.cpu: is a price without a unit (add currency = "EUR"'),
        ("[prices]\ncpu = -1\ncurrency = 'EUR'", "prices.cpu: -1 is no price of an hour"),
        ("[prices]\ncpu = inf\ncurrency = 'EUR'", "prices.cpu: inf is no price of an hour"),
        ("[prices]\ncpu = 1\ncurrency = 3", "prices.currency: must be a text"),
        ("[prices]\ncpu = 1\ncurrency = ' '", "prices.currency: must be a text"),
        ("[executors.lab]\nkind = 'slurm'", "unknown key 'executors' (did you mean 'executor'?)"),
        ("[store]\nkept = 'all'", "store: unknown key 'kept' (did you mean 'keep'?)"),
        ("executor = 3", "executor: is not a table"),
        ("prices = 3", "prices: is not a table"),
        ("[executor", "cannot be read"),
    ],
)
def test_a_wrong_setting_is_refused_by_file_and_field(tmp_path, text, words):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        user_settings(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
