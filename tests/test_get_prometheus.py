"""`.ci/get-prometheus` with a stand-in for apt: what it fetches, what it leaves alone, and what it says."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "get-prometheus"
ARMOURED = "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ\n -----END PGP PUBLIC KEY BLOCK-----"

# As much of apt-get and its kin as is used: `sid` is out of reach, the others carry one version each.
APT_GET = """\
#!/bin/sh
echo "$@" >> "$LOG"
folder=${APT_CONFIG%/apt.conf}
suite=$(sed -n 's/^Suites: //p' "$folder/wanted.sources")
case "$*:$suite" in
*update:sid) echo "E: The repository 'sid' does not have a Release file." >&2; exit 100 ;;
*download*) for name in prometheus promtool; do echo "$suite" > "${name}_$suite.deb"; done ;;
esac
"""
APT_CACHE = (
    '#!/bin/sh\ncase "$2" in prometheus|promtool) echo "Filename: pool/$2.deb" ;; *) exit 100 ;; esac\n'
)
APT_CONFIG = "#!/bin/sh\necho 'APT::Update::Post-Invoke:: \"touch /nowhere/hook\";'\n"
DPKG = """\
#!/bin/sh
mkdir -p "$3/usr/bin"
name=$(basename "$2"); name=${name%%_*}
case "$(cat "$2")" in trixie) version=2.53.3 ;; *) version=2.42.0 ;; esac
printf '#!/bin/sh\\necho "%s, version %s+ds (branch: debian)"\\n' "$name" "$version" > "$3/usr/bin/$name"
chmod +x "$3/usr/bin/$name"
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; it finds what stands beside it as it does when it is run."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    loader = SourceFileLoader("get_prometheus", str(SCRIPT))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


def put(folder: Path, name: str, text: str) -> None:
    """Write an executable."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.fixture
def get(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int | str, list[str]]]:
    """Runs the script in `tmp_path/tools`; gives its exit code or message, and what apt-get was asked."""
    fakes = tmp_path / "fakes"
    for name, text in (
        ("apt-get", APT_GET), ("apt-cache", APT_CACHE), ("apt-config", APT_CONFIG), ("dpkg", DPKG),
    ):  # fmt: skip
        put(fakes, name, text)
    log = tmp_path / "log"
    monkeypatch.setenv("LOG", str(log))
    shell = tmp_path / "shell"  # what the stand-ins need, and no prometheus that this machine may have
    shell.mkdir()
    for name in ("sh", "sed", "basename", "mkdir", "cat", "chmod", "touch"):
        (shell / name).symlink_to(next(p for d in ("/bin", "/usr/bin") if (p := Path(d, name)).exists()))
    monkeypatch.setattr(script, "os_release", lambda: {"ID": "debian", "VERSION_CODENAME": "bookworm"})
    source = script.Source(("http://mirror.invalid/debian",), ("bookworm",), ("main",), ())
    monkeypatch.setattr(script, "machine_sources", lambda: [source])

    def call(*arguments: str, apt: bool = True, path: str = "") -> tuple[int | str, list[str]]:
        folders = [path, str(fakes) if apt else "", str(shell)]
        monkeypatch.setenv("PATH", os.pathsep.join(filter(None, folders)))
        monkeypatch.setattr(sys, "argv", ["get-prometheus", "--dir", str(tmp_path / "tools"), *arguments])
        log.write_text("")
        try:
            result: int | str = script.main()
        except script.CannotError as error:
            result = str(error)
        return result, log.read_text().splitlines()

    return call


def programs(tmp_path: Path) -> dict[str, str]:
    """What lies in `tools`, by folder."""
    found = sorted(path for path in (tmp_path / "tools").glob("*/p*") if not path.is_symlink())
    return {f"{path.parent.name}/{path.name}": path.read_text().split()[4] for path in found}


def test_first_suite_that_can_be_had_serves(get: Callable, tmp_path: Path) -> None:
    assert get()[0] == 0
    assert programs(tmp_path) == {
        "prometheus-2.53/prometheus": "2.53.3+ds",
        "prometheus-2.53/promtool": "2.53.3+ds",
    }
    assert (tmp_path / "tools/bin/promtool").resolve() == tmp_path / "tools/prometheus-2.53/promtool"
    assert not list((tmp_path / "tools").glob(".fetch-*"))


def test_all_names_the_suite_that_is_missing(
    get: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert get("--all")[0] == 0
    assert {name.split("/")[0] for name in programs(tmp_path)} == {"prometheus-2.42", "prometheus-2.53"}
    assert "no Prometheus from sid: E: The repository 'sid'" in capsys.readouterr().err
    get("--list")
    listed = [Path(item).parent.name for item in capsys.readouterr().out.strip().split(os.pathsep)]
    assert listed == ["prometheus-2.53", "prometheus-2.42"]


def test_second_call_asks_nobody(get: Callable) -> None:
    assert get()[1]
    assert get() == (0, [])


def test_programs_on_path_are_used(get: Callable, tmp_path: Path) -> None:
    for name in ("prometheus", "promtool", "prometheus-alertmanager", "amtool"):
        put(tmp_path / "theirs", name, f'#!/bin/sh\necho "{name}, version 9.1.0 (x)"\n')
    assert get(path=str(tmp_path / "theirs")) == (0, [])
    assert (tmp_path / "tools/bin/alertmanager").resolve() == tmp_path / "theirs/prometheus-alertmanager"
    assert get("--all", path=str(tmp_path / "theirs"))[1]  # other versions are asked for


def test_without_apt_it_says_what_to_install(get: Callable) -> None:
    message, _ = get(apt=False)
    assert message.startswith("needs prometheus and promtool on PATH; install Prometheus")
    assert "without apt-get" in message


def test_programs_that_do_not_run_are_not_kept(get: Callable, tmp_path: Path) -> None:
    put(tmp_path / "fakes", "dpkg", DPKG.replace('echo "%s, version', 'exit 1; echo "%s'))
    message, _ = get()
    assert "prometheus does not run here" in message
    assert not programs(tmp_path)


def test_hooks_of_the_machine_stay_out(script: ModuleType, get: Callable, tmp_path: Path) -> None:
    get()  # puts the stand-ins on PATH
    script.apt_environment(
        tmp_path, "sid", script.Source(("http://m",), ("x",), ("main",), ("Signed-By: /k",))
    )
    assert "Post-Invoke" not in (tmp_path / "apt.conf").read_text()
    assert "Suites: sid\nComponents: main\n" in (tmp_path / "wanted.sources").read_text()


SOURCES = [
    pytest.param(
        "x.sources",
        f"# a\nTypes: deb deb-src\nURIs: http://m/d\nSuites: s s-new\nComponents: main\n{ARMOURED}\n",
        [("http://m/d", "s s-new", "main", "signed-by:")],
        id="deb822 with a key inside",
    ),
    pytest.param(
        "x.sources", "Types: deb\nEnabled: no\nURIs: http://m\nSuites: s\nComponents: main\n", [], id="off"
    ),
    pytest.param(
        "x.sources", "Types: deb-src\nURIs: http://m\nSuites: s\nComponents: main\n", [], id="source only"
    ),
    pytest.param(
        "x.list",
        "deb [arch=amd64,i386 signed-by=/k.gpg] http://m/debian s main contrib # why\n#deb http://n s main\n",
        [("http://m/debian", "s", "main contrib", "Architectures: amd64 i386")],
        id="one line with options",
    ),
    pytest.param("x.list", "deb http://m/debian-security s-security main\n", [], id="security only"),
    pytest.param("x.list", "deb http://m/flat ./\n", [], id="flat"),
    pytest.param("x.list", "deb cdrom:[Debian]/ s main\n", [], id="CD"),
    pytest.param("x.list.disabled", "deb http://m/debian s main\n", [], id="disabled by name"),
]


@pytest.mark.parametrize(("name", "text", "expected"), SOURCES)
def test_sources_of_the_machine(
    script: ModuleType, tmp_path: Path, name: str, text: str, expected: list[tuple[str, str, str, str]]
) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / name).write_text(textwrap.dedent(text))
    if not expected:
        with pytest.raises(script.CannotError, match="name no mirror"):
            script.machine_sources(tmp_path)
        return
    found = script.machine_sources(tmp_path)
    shown = [
        (" ".join(s.uris), " ".join(s.suites), " ".join(s.components), s.options[0].split("\n")[0])
        for s in found
    ]
    assert [(*most, option.strip()) for *most, option in shown] == expected


def test_own_release_comes_before_vendors(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        script.machine_sources.__module__ + ".os_release", lambda: {"VERSION_CODENAME": "bookworm"}
    )
    (tmp_path / "sources.list").write_text("deb http://vendor v main\ndeb http://mirror bookworm main\n")
    (found,) = script.machine_sources(tmp_path)
    assert found.uris == ("http://mirror",)
