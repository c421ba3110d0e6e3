"""The caller of a request: a key or a session with its scopes, and whether it is still valid."""

from collections.abc import Collection
from dataclasses import dataclass

from rhocache_schemas.api import SCOPES, Scope
from rhocache_service.registry.api_keys import Keys
from rhocache_service.registry.sessions import Sessions


@dataclass(frozen=True, slots=True)
class Caller:
    key: str | None  # id of the API key; None while the service has none
    scopes: frozenset[str]
    session: str | None = None  # id of the browser's session, where one sends the request

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes


class Callers:
    def __init__(self, keys: Keys, sessions: Sessions) -> None:
        self._keys = keys
        self._sessions = sessions

    def find(self, key: str | None, session: str | None) -> Caller | None:
        """Whose key this is or, without one, whose session's token; None where it is not valid.

        Everyone may do everything while there are no keys: the service is on loopback then.
        """
        if not self._keys.exist():
            return Caller(None, frozenset(SCOPES))
        if key is not None:
            row, id_ = self._keys.check(key), None
        else:
            id_, row = self._sessions.check(session or "") or (None, None)
        return None if row is None else Caller(row.id, frozenset(row.scopes), id_)

    def may_go_on(self, who: Caller) -> bool:
        """Whether a caller who was found before is still one; to be asked while an answer lasts."""
        return not self.gone({who})

    def gone(self, callers: Collection[Caller]) -> set[Caller]:
        """Those that may do nothing any more.

        Their key was revoked or has expired, their session has ended, or they had no key and now
        there are some, whichever service did that.
        """
        sessions = self._sessions.still_valid({who.session for who in callers if who.session})
        keys = self._keys.still_usable({who.key for who in callers if who.key and not who.session})

        def stays(who: Caller) -> bool:
            if who.session is not None:
                return who.session in sessions
            return who.key in keys if who.key is not None else not self._keys.exist()

        return {who for who in callers if not stays(who)}
