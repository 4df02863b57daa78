"""docs/bare-metal.md: its commands are taken, its certificates are good, its settings and ports are ours."""

from __future__ import annotations

import re
import shlex
import ssl
from pathlib import Path

from proxy.settings_catalogue import LEAVES
from proxy.settings_flags import read
from proxy.settings_loading import load
from tests.support.etcd import etcd_binary
from tests.unit.deploy.needed import DEPLOY, ROOT, done, program
from workers.settings import WorkerSettings, read_settings

PAGE = (ROOT / "docs" / "bare-metal.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
EXAMPLES = DEPLOY / "systemd"


def commands(program: str) -> list[list[str]]:
    """The command lines that begin with it, continued lines joined, comments left out."""
    lines = "".join(BLOCKS).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line and line[0].rpartition("/")[2] == program]


def with_examples(argv: list[str]) -> list[str]:
    """The files of the page's own `install` lines, where the repository has them."""
    return [str(EXAMPLES / Path(word).name) if word.startswith("/etc/pd-proxy/") else word for word in argv]


def test_the_certificates_are_of_the_members_and_of_the_authority(tmp_path: Path) -> None:
    program("openssl", "apt-get install openssl")
    (made,) = [block for block in BLOCKS if "openssl req -x509" in block]
    done(["bash", "-euc", made], tmp_path)
    for member in ("etcd-0", "etcd-1", "etcd-2"):
        checked = ["-CAfile", "ca.pem", "-purpose", "sslserver", "-verify_hostname", member]
        assert f"{member}.pem: OK" in done(["openssl", "verify", *checked, f"{member}.pem"], tmp_path)
        ssl.create_default_context(cafile=str(tmp_path / "ca.pem")).load_cert_chain(
            tmp_path / f"{member}.pem", tmp_path / f"{member}.key"
        )


def test_etcd_knows_its_flags() -> None:
    known = done([etcd_binary(), "--help"])
    found = [word for line in commands("etcd") for word in line if word.startswith("--")]
    assert len(found) > 15
    assert [flag for flag in found if f"{flag} " not in known] == []


def test_the_programs_take_their_command_lines() -> None:
    proxies = [with_examples(line[1:]) for line in commands("pd-proxy")]
    assert [read(argv).wants for argv in proxies] == ["version", "print-config"]
    assert load(read(proxies[1]), {}).settings.discovery.etcd_endpoints
    workers = [with_examples(line[1:]) for line in commands("pd-worker")]
    settings = [read_settings([word for word in argv if word != "doctor"]) for argv in workers]
    assert [one.dry_run for one in settings] == [True, False]


def test_files_that_are_installed_are_there() -> None:
    sources = [word for line in commands("install") for word in line if re.match(r"(docs|deploy)/", word)]
    assert len(sources) == 5
    assert [one for one in sources if not list(ROOT.glob(one))] == []
    units = "".join(path.read_text() for path in EXAMPLES.glob("pd-*"))
    documentation = set(re.findall(r"^Documentation=file:(.*)$", units, re.MULTILINE))
    assert documentation == {line[-1] for line in commands("install") if "docs/bare-metal.md" in line}


def test_settings_and_variables_named_are_ours() -> None:
    table = PAGE.split("| proxy, in `[discovery]`")[1].split("\n\n")[0]
    for row in table.splitlines()[2:]:
        ours, theirs = re.findall(r"`([\w]+)", row)[:1], re.findall(r"`([\w]+)", row.split("|")[2])[:1]
        (mine,), (other,) = ours, theirs
        variables = {leaf.variable for leaf in LEAVES.values()}
        assert f"discovery.{mine}" in LEAVES or mine in variables
        assert other.removeprefix("PD_WORKER_").lower() in WorkerSettings.model_fields
