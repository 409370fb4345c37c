"""Roles and their scopes: yours, in ``src/app/auth/roles.py``."""

from app.auth.roles import ROLES
from app.platform.auth.grants import ADMIN, scopes_of


def test_an_administrator_has_the_scope_admin() -> None:
    assert "admin" in ROLES[ADMIN]


def test_the_scopes_of_several_roles_are_those_of_each() -> None:
    assert scopes_of(ROLES, ROLES) == frozenset().union(*ROLES.values())


def test_a_role_that_is_deleted_from_the_code_grants_nothing() -> None:
    assert scopes_of(ROLES, ["no-longer-there"]) == frozenset()
