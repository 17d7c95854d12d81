"""Users added, changed and deleted in the password file: for the CLI. One edit at a time, and each whole or not at all.

Comments and the other lines stay as they are. What is written is read back by the very parser of the broker first.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from node.auth import passwords
from node.auth.files import locked, read_lines, replace
from node.auth.scram import make_verifier


class UserError(Exception):
    """The edit is refused, nothing was changed; the text names cause and way out."""


@dataclass(frozen=True, slots=True)
class User:
    name: str
    hash: str  # "argon2id", "pbkdf2-sha512", "sha512"
    scram: bool


def list_users(path: str | Path) -> list[User]:
    """The users of the file, in its order. Raises AuthFileError."""
    return [describe(name, entry) for name, entry in passwords.load(path).items()]


def describe(name: str, entry: passwords.Entry) -> User:
    """Without what a password could be guessed with."""
    return User(name, _kind(entry.hash), entry.verifier is not None)


def add_user(path: str | Path, user: str, password: passwords.Password, scram: bool) -> None:
    """Write a new user; the file is made if it is not there. Raises UserError, AuthFileError."""
    line = make_line(user, password, scram)
    with locked(path) as target:
        users, lines = _read(target)
        if user in users:
            raise UserError(f"The user {user} exists already. To change it: mqnode users passwd {user}")
        replace(target, [*lines, line])


def change_password(path: str | Path, user: str, password: passwords.Password, scram: bool | None = None) -> None:
    """Give the user a new password, and with `scram` None a verifier only if it had one. Raises UserError, AuthFileError."""
    with locked(path) as target:
        users, lines = _read(target)
        _require(user in users, f"There is no user {user}. To add it: mqnode users add {user}")
        keep = users[user].verifier is not None
        line = make_line(user, password, keep if scram is None else scram)
        replace(target, [line if _is_of(each, user) else each for each in lines])


def check_deletable(path: str | Path, user: str) -> list[str]:
    """Could the user be taken out of the file? Returns its lines. Raises UserError, AuthFileError."""
    users, lines = _read(Path(path))
    _require(user in users, f"There is no user {user}. To see who there is: mqnode users list")
    _require(
        len(users) > 1,
        f"{user} is the last user, and a file without users is refused: running brokers would keep {user}. "
        f"Add another one first, or lock it out by a new password: mqnode users passwd {user}",
    )
    return lines


def delete_user(path: str | Path, user: str) -> None:
    """Take the user out of the file. Raises UserError, AuthFileError."""
    with locked(path) as target:
        replace(target, [each for each in check_deletable(target, user) if not _is_of(each, user)])


def _read(target: Path) -> tuple[dict[str, passwords.Entry], list[str]]:
    """Users and lines; none if there is no file yet, or one without users."""
    if not target.exists():
        return {}, []
    lines = read_lines(target, "Run the command as its owner.")
    if all(passwords.is_comment(line) for line in lines):
        return {}, [line for line in lines if line.strip()]
    return passwords.load(target), lines


def make_line(user: str, password: passwords.Password, scram: bool) -> str:
    """Raises UserError."""
    _require(bool(password.text), "The password is empty: nobody could log in with it. Give one.")
    try:
        passwords.check_user(user)
        parts = [user, password.hash()]
        if scram:
            parts.append(make_verifier(password.text, secrets.token_bytes(16)).encode())
        passwords.parse_line(":".join(parts))
    except (passwords.Malformed, ValueError) as error:
        raise UserError(f"The user cannot be written: {error}. Choose another name or password.") from None
    return ":".join(parts)


def _is_of(line: str, user: str) -> bool:
    return not passwords.is_comment(line) and line.partition(":")[0] == user


def _kind(hash: passwords.Argon2 | passwords.Sha512) -> str:
    if isinstance(hash, passwords.Argon2):
        return "argon2id"
    return "pbkdf2-sha512" if hash.rounds else "sha512"


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise UserError(text)
