#!/bin/sh
# Puts the key of the account by ACME (standard input; a last line "# binding KEY" is what binds it), and who may sign for its directory (TRUSTED, a certificate or
# nothing), into a volume that its renewer alone has: IMAGE, ACCOUNT, STACK, TRUSTED.
set -eu
exec docker run --rm --interactive --network none --read-only --cap-drop ALL --cap-add CHOWN --cap-add DAC_OVERRIDE \
    --cap-add FOWNER --security-opt no-new-privileges:true --user 0:0 --log-driver none --env TRUSTED \
    --label "django-cluster.stack=$STACK" --label django-cluster.role=task --volume "$ACCOUNT:/srv/account" \
    "$IMAGE" sh -euc '
        umask 0077
        cd /srv/account
        : >account.key.new
        : >eab.key.new
        while IFS= read -r line || [ -n "$line" ]; do
            case $line in
            "# binding "*) printf "%s\n" "${line#"# binding "}" >eab.key.new ;;
            *) printf "%s\n" "$line" >>account.key.new ;;
            esac
        done
        printf %s "$TRUSTED" >ca.pem.new
        chmod 0400 account.key.new ca.pem.new eab.key.new
        chown 10002:10001 account.key.new ca.pem.new eab.key.new
        mv account.key.new account.key
        mv eab.key.new eab.key
        mv ca.pem.new ca.pem'
