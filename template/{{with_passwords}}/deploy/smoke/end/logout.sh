# Ends the session that deploy/login.sh has opened; part of deploy/smoke.sh.
call POST /api/v1/auth/logout >/dev/null
