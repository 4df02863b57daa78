"""TLS with host names, and users with passwords whose tokens run out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proxy.discovery.etcd import Etcd, EtcdRules
from proxy.discovery.record import write
from proxy.discovery.refusals import EtcdError, EtcdUnavailable
from tests.contract.registry_fleet import KEYS, Seen, a_worker, rules, until, watching
from tests.support.certs import Authority
from tests.support.etcd import Etcd as Server
from tests.support.etcd import ServerTls, etcd_members, start_etcd

_FAST_TOKENS = ("--auth-token=simple", "--auth-token-ttl=1")


async def _put(etcd: Etcd, number: int) -> None:
    worker = a_worker(number)
    request = {"request_put": {"key": KEYS.worker(worker).encode(), "value": write(worker)}}
    await etcd.txn([], [request])


async def test_a_server_is_believed_by_its_authority_and_its_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("server", hosts=["127.0.0.1"])
    seen = Seen()
    async with start_etcd(tls=ServerTls(issued.certfile, issued.keyfile)) as server:
        tls = rules([server], cafile=str(authority.cafile))
        async with watching(tls, seen), Etcd(tls) as etcd:
            await _put(etcd, 1)
            await until(lambda: seen.workers)


async def test_another_hosts_certificate_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("elsewhere", hosts=["elsewhere.example"])
    async with (
        start_etcd(tls=ServerTls(issued.certfile, issued.keyfile)) as server,
        Etcd(rules([server], cafile=str(authority.cafile))) as etcd,
    ):
        with pytest.raises(EtcdUnavailable, match="certificate"):
            await etcd.range(b"a")


async def test_an_unknown_authority_is_refused(tmp_path: Path) -> None:
    issued = Authority(tmp_path).issue("server", hosts=["127.0.0.1"])
    async with (
        start_etcd(tls=ServerTls(issued.certfile, issued.keyfile)) as server,
        Etcd(rules([server])) as etcd,
    ):
        with pytest.raises(EtcdUnavailable, match="certificate"):
            await etcd.range(b"a")


async def test_a_client_shows_its_certificate_where_one_is_asked_for(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued, client = authority.issue("server", hosts=["127.0.0.1"]), authority.issue("client", hosts=["c"])
    extra = (f"--trusted-ca-file={authority.cafile}", "--client-cert-auth")
    async with start_etcd(tls=ServerTls(issued.certfile, issued.keyfile), extra=extra) as server:
        ca = str(authority.cafile)
        shown = rules([server], cafile=ca, certfile=str(client.certfile), keyfile=str(client.keyfile))
        async with Etcd(shown) as etcd:
            assert (await etcd.range(b"a")).count == 0
        async with Etcd(rules([server], cafile=ca)) as etcd:
            with pytest.raises(EtcdUnavailable):
                await etcd.range(b"a")


def _switch_auth_on(server: Server) -> None:
    def call(path: str, **message: Any) -> None:
        server.call("/v3/auth/" + path, message)

    call("role/add", name="pd")
    prefix = KEYS.prefix.encode()
    end = prefix[:-1] + b"0"
    call("role/grant", name="pd", perm={"permType": "READWRITE", "key": prefix, "range_end": end})
    call("user/add", name="root", password="r")
    call("user/grant", user="root", role="root")
    call("user/add", name="pd", password="secret")
    call("user/grant", user="pd", role="pd")
    call("enable")


async def test_a_token_that_ran_out_is_replaced_unseen() -> None:
    with etcd_members(1, extra=_FAST_TOKENS) as (server,):
        _switch_auth_on(server)
        async with Etcd(rules([server], user="pd", password="secret")) as etcd:
            await _put(etcd, 1)
            first = etcd._token
            for unused_s in (2.5, 5, 10):  # etcd forgets a token some time after its ttl of 1 s without use
                await asyncio.sleep(unused_s)
                await _put(etcd, 2)
                if etcd._token != first:
                    break
            assert etcd._token != first


async def test_a_restarted_etcd_has_forgotten_the_tokens_and_the_watch_goes_on() -> None:
    seen = Seen()
    with etcd_members(1, extra=_FAST_TOKENS) as (server,):
        _switch_auth_on(server)
        user = rules([server], user="pd", password="secret")
        async with watching(user, seen) as watcher, Etcd(user) as etcd:
            await _put(etcd, 1)
            await until(lambda: len(seen.workers) == 1)
            server.kill()
            await until(lambda: not watcher.connected)
            await server.restart()
            await _put(etcd, 2)
            await until(lambda: len(seen.workers) == 2)


async def test_a_wrong_password_is_said_so() -> None:
    with etcd_members(1) as (server,):
        _switch_auth_on(server)
        async with Etcd(rules([server], user="pd", password="wrong")) as etcd:
            with pytest.raises(EtcdError, match="invalid user ID or password"):
                await etcd.range(b"a")


async def test_a_user_is_set_before_etcd_asks_for_one() -> None:
    """The order in which people switch authentication on must not matter."""
    with etcd_members(1) as (server,):
        async with Etcd(rules([server], user="pd", password="secret")) as etcd:
            await _put(etcd, 1)
            _switch_auth_on(server)
            await _put(etcd, 2)


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(EtcdRules(user="pd", password="secret"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"endpoints": ()}, "at least one"),
        ({"endpoints": ("127.0.0.1:2379",)}, "http"),
        ({"user": "pd"}, "password"),
        ({"keyfile": "key.pem"}, "certfile"),
    ],
)
def test_wrong_rules_are_refused_at_birth(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EtcdRules(**wrong)
