from sqlalchemy import update
from sqlalchemy.engine import Engine

from rhocache_service.database import LeaseRow
from rhocache_service.leadership import SECONDS, Leadership


def test_one_leads_until_it_is_gone(database: Engine) -> None:
    first, second = Leadership(database), Leadership(database)
    assert first.hold()
    assert not second.hold()
    assert first.hold(), "renewed"
    first.give_up()
    assert second.hold()
    assert not first.hold()
    with database.begin() as connection:  # as if the second had said nothing for so long
        connection.execute(update(LeaseRow).values(until=LeaseRow.until - SECONDS - 1))
    assert first.hold()
    assert not second.hold()
