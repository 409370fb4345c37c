// A certified OpenID Connect provider for one test: `node provider.mjs PORT`, on 127.0.0.1.
// Besides what it is made for: /-/rotate gives it a new key to sign with, /-/withdraw publishes that
// one alone, /-/counts says how often each path was asked for.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const port = Number(process.argv[2]);
const issuer = `http://127.0.0.1:${port}`;
const counts = {};

function newKey() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'RS256' };
}

let keys = [newKey()];

function newProvider() {
  return new Provider(issuer, {
    jwks: { keys },
    clients: [
      {
        client_id: 'machine',
        client_secret: 'for-this-test-alone',
        grant_types: ['client_credentials'],
        redirect_uris: [],
        response_types: [],
      },
      {
        client_id: 'docs',
        token_endpoint_auth_method: 'none',
        redirect_uris: ['http://localhost:8000/docs/oauth2-redirect'],
        post_logout_redirect_uris: ['http://localhost:8000/docs'],
        backchannel_logout_uri: process.env.BACKCHANNEL_LOGOUT_URI,
      },
    ],
    pkce: { required: () => true },
    clientBasedCORS: () => true,
    // Of itself it calls no address of this machine, where the service is that it tells of logouts.
    fetch: (url, { dispatcher, ...options }) => fetch(url, options),
    features: {
      backchannelLogout: { enabled: true },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, resource) => ({
          scope: 'admin things:read',
          audience: resource,
          accessTokenTTL: 600,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
  });
}

let provider = newProvider();

createServer((request, response) => {
  if (request.url === '/-/counts') {
    response.end(JSON.stringify(counts));
  } else if (request.url === '/-/rotate' || request.url === '/-/withdraw') {
    keys = request.url === '/-/rotate' ? [newKey(), ...keys] : keys.slice(0, 1);
    provider = newProvider();
    response.end();
  } else {
    const path = request.url.split('?')[0];
    counts[path] = (counts[path] ?? 0) + 1;
    provider.callback()(request, response);
  }
}).listen(port, '127.0.0.1');
