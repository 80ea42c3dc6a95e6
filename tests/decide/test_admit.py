from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hostler.decide.admit import Denial, admit, may_call
from hostler.spec.snapshot import KeyGrant

names = st.sampled_from(["chat", "digits", "rerank"])
grants = st.builds(
    KeyGrant,
    id=st.just("k"),
    digest=st.just("d"),
    endpoints=st.none() | st.lists(names).map(tuple),
    expires_at=st.none() | st.floats(0, 100),
)


def test_a_key_nobody_knows_is_denied() -> None:
    assert admit(None, endpoint=None, now=0.0) is Denial.UNKNOWN_KEY


@given(grants, st.none() | names, st.floats(0, 100))
def test_a_key_is_admitted_exactly_while_it_lives_and_to_what_it_lists(
    grant: KeyGrant, endpoint: str | None, now: float
) -> None:
    lives = grant.expires_at is None or now < grant.expires_at
    listed = endpoint is None or grant.endpoints is None or endpoint in grant.endpoints
    denial = admit(grant, endpoint=endpoint, now=now)
    assert (denial is None) == (lives and listed)
    if not lives:
        assert denial is Denial.EXPIRED_KEY
    elif not listed:
        assert denial is Denial.ENDPOINT_FORBIDDEN
        assert endpoint is not None
        assert not may_call(grant, endpoint)
