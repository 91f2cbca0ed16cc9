/* libcurl and libcrypto, opened by the first download: they bring some thirty other libraries. */
#ifndef PL_LUA_NETWORK_H
#define PL_LUA_NETWORK_H

#include <curl/curl.h>
#include <lua.h>
#include <openssl/evp.h>

#define PL_FUNCTION(name) __typeof__(&name) name##_

/* The functions by their own names, with a _ behind that keeps curl's macros of those names away.
 */
typedef struct pl_curl {
    PL_FUNCTION(curl_easy_init);
    PL_FUNCTION(curl_easy_cleanup);
    PL_FUNCTION(curl_easy_setopt);
    PL_FUNCTION(curl_easy_getinfo);
    PL_FUNCTION(curl_easy_header);
    PL_FUNCTION(curl_easy_perform);
    PL_FUNCTION(curl_easy_strerror);
    PL_FUNCTION(curl_slist_append);
    PL_FUNCTION(curl_slist_free_all);
    PL_FUNCTION(curl_url);
    PL_FUNCTION(curl_url_set);
    PL_FUNCTION(curl_url_get);
    PL_FUNCTION(curl_url_cleanup);
    PL_FUNCTION(curl_free);
} pl_curl;

typedef struct pl_crypto {
    PL_FUNCTION(EVP_get_digestbyname);
    PL_FUNCTION(EVP_MD_CTX_new);
    PL_FUNCTION(EVP_MD_CTX_free);
    PL_FUNCTION(EVP_DigestInit_ex);
    PL_FUNCTION(EVP_DigestUpdate);
    PL_FUNCTION(EVP_DigestFinal_ex);
} pl_crypto;

/* Raise an error where the library is not installed. [-0, +0, v] */
const pl_curl *pl_lua_curl(lua_State *L);
const pl_crypto *pl_lua_crypto(lua_State *L);

#endif
