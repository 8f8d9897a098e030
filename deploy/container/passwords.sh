#!/bin/sh
# Runs once, when the database is made, after roles.sql: gives the roles their passwords from the secrets.
set -eu
for role in xray_owner xray; do
    # psql reads the secret itself: on a command line others would see it.
    psql --no-psqlrc --username postgres --dbname xray --set ON_ERROR_STOP=on --quiet <<SQL
\\set password \`cat /run/secrets/$role-password\`
ALTER ROLE $role PASSWORD :'password';
SQL
done
