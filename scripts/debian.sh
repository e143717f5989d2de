#!/usr/bin/env bash
# Installs the Debian packages that some tests use, where this machine can: root, and apt-get.
# Without them those tests are skipped and say so.
set -euo pipefail
packages=(dataset-fashion-mnist libfaketime)
missing=()
for package in "${packages[@]}"; do
  dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
  echo "not installed: ${missing[*]} (needs root and apt-get); tests that use them are skipped" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get -qq update && apt-get -qq install --yes --no-install-recommends "${missing[@]}"; } >/dev/null; then
  echo "could not install ${missing[*]}; tests that use them are skipped" >&2
fi
