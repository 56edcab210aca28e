# Sourced by the other scripts with $root set: makes $root/.venv from the lock file, or does nothing when it is up to date.
# The lock file is made by
#   uv pip compile --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
#       --extra all --extra test --extra build pyproject.toml -o requirements.lock
# Needs Python >= 3.11 with venv and pip; PYTHON=... chooses the interpreter. `uv` is used where there is one.

python="$root/.venv/bin/python"
export PYTHONDONTWRITEBYTECODE= # packages come without byte code; each process would compile them again

version_of() { # prints major.minor.micro if the interpreter is recent enough
    "$1" -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1); print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
}

if [ -n "${PYTHON:-}" ]; then
    base=$PYTHON
elif version_of "$python" >/dev/null; then
    base=$python
else
    base=
    for candidate in python3 python3.12 python3.11 python3.13 python; do
        if version_of "$candidate" >/dev/null; then
            base=$candidate
            break
        fi
    done
fi
if [ -z "$base" ] || ! version=$(version_of "$base"); then
    echo "error: no Python >= 3.11 found${PYTHON:+ at PYTHON=$PYTHON}; install one or set PYTHON=/path/to/python3" >&2
    exit 2
fi

# What is installed depends on these and nothing else; the path is among them because an editable install records it.
stamp=$("$base" - "$version" "$root" "$root/requirements.lock" "$root/pyproject.toml" <<'PY'
import hashlib, sys
digest = hashlib.sha256(" ".join(sys.argv[1:3]).encode())
for path in sys.argv[3:]:
    digest.update(open(path, "rb").read())
print(digest.hexdigest())
PY
)

if [ "$(cat "$root/.venv/.stamp" 2>/dev/null)" != "$stamp" ] || [ "$(version_of "$python")" != "$version" ]; then
    echo "setting up .venv with Python $version (once; about a minute)" >&2
    if [ "$(version_of "$python")" != "$version" ] || ! "$python" -m pip --version >/dev/null 2>&1; then
        "$base" -m venv --clear "$root/.venv" || {
            echo "error: $base cannot make a virtual environment; install its venv module (Debian: python3-venv)" >&2
            exit 2
        }
    fi
    rm -f "$root/.venv/.stamp"
    if command -v uv >/dev/null 2>&1; then
        uv pip install --quiet --python "$python" --no-deps --require-hashes -r "$root/requirements.lock" &&
            uv pip install --quiet --python "$python" --no-deps --no-build-isolation -e "$root"
    else
        "$python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r "$root/requirements.lock" &&
            "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e "$root"
    fi || {
        echo "error: installing the locked packages failed (see above); run this script again to resume" >&2
        exit 1
    }
    echo "$stamp" >"$root/.venv/.stamp"
fi
