"""Waking within a process, and the names under which other processes are woken."""

import hashlib

import pytest

from reflex_aio.sql.wakeups.notifier import LocalNotifier, payload_of


def test_subscribers_of_the_table_are_woken_and_no_others() -> None:
    notifier, woken = LocalNotifier(), []
    notifier.subscribe("public.a", lambda: woken.append("a"))
    notifier.subscribe("public.a", lambda: woken.append("a too"))
    notifier.subscribe("public.b", lambda: woken.append("b"))
    notifier.notify("public.a")
    assert woken == ["a", "a too"]
    notifier.notify("public.unknown")
    assert woken == ["a", "a too"]


def test_an_ended_subscription_is_not_woken_and_may_be_ended_again() -> None:
    notifier, woken = LocalNotifier(), []
    unsubscribe = notifier.subscribe("public.a", lambda: woken.append("first"))
    unsubscribe()
    assert not notifier.subscribers
    notifier.subscribe("public.a", lambda: woken.append("second"))
    unsubscribe()
    notifier.notify("public.a")
    assert woken == ["second"]


def test_a_subscriber_may_end_subscriptions_while_it_is_woken() -> None:
    notifier, woken = LocalNotifier(), []

    def wake() -> None:
        woken.append(1)
        unsubscribe()

    unsubscribe = notifier.subscribe("public.a", wake)
    notifier.notify("public.a")
    notifier.notify("public.a")
    assert woken == [1]


def test_a_subscriber_that_fails_is_logged_and_keeps_no_one_from_being_woken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notifier, woken = LocalNotifier(), []
    notifier.subscribe("public.a", lambda: woken.append(1 // 0))
    notifier.subscribe("public.a", lambda: woken.append(1))
    notifier.notify("public.a")
    assert woken == [1]
    assert "ZeroDivisionError" in caplog.text


def test_a_payload_is_the_tables_name_up_to_200_bytes_and_then_its_hash() -> None:
    assert payload_of("public.users") == "public.users"
    assert payload_of("ü" * 100) == "ü" * 100
    assert payload_of("ü" * 101) == "md5:" + hashlib.md5(("ü" * 101).encode()).hexdigest()
