#!/bin/sh
# Makes the passwords of deploy/compose.yaml, once: files that exist stay as they are.  Nothing is printed.
set -eu
cd "$(dirname "$0")/.."
umask 077
mkdir -p secrets

# In the container another user reads them; the folder keeps everybody else on this machine out.
put() {
    [ -e "secrets/$1" ] || { cat > "secrets/$1.new" && chmod 444 "secrets/$1.new" && mv "secrets/$1.new" "secrets/$1"; }
}

for role in postgres xray_owner xray; do
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n' | put "$role-password"
done
for role in xray_owner xray; do
    printf 'postgresql+psycopg://%s:%s@database/xray\n' "$role" "$(cat "secrets/$role-password")" | put "$role-url"
done
