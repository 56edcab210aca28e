# Sourced after scripts/environment.sh: adds what the documentation, the notebooks and the interactive page need.

if ! cmp -s "$root/docs/requirements.lock" "$root/.venv/.docs.lock" || [ ! -x "$root/.venv/bin/mkdocs" ]; then
    if command -v uv >/dev/null 2>&1; then
        uv pip install --quiet --python "$python" --no-deps --require-hashes -r "$root/docs/requirements.lock"
    else
        "$python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r "$root/docs/requirements.lock"
    fi
    cp "$root/docs/requirements.lock" "$root/.venv/.docs.lock"
fi
