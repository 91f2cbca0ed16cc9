#include "network.h"

#include "../engine/base/library.h"
#include "common.h"

#define SYMBOL(library, name)                                                                      \
    { #name, &(library).name##_ }

static void open_library(lua_State *L, const char *file, const pl_symbol *symbols, size_t n) {
    pl_error err;
    if (pl_library_open(file, symbols, n, &err) != PL_OK) pl_lua_raise(L, &err);
}

const pl_curl *pl_lua_curl(lua_State *L) {
    static pl_curl curl;
    const pl_symbol symbols[] = {SYMBOL(curl, curl_easy_init),      SYMBOL(curl, curl_easy_cleanup),
                                 SYMBOL(curl, curl_easy_setopt),    SYMBOL(curl, curl_easy_getinfo),
                                 SYMBOL(curl, curl_easy_header),    SYMBOL(curl, curl_easy_perform),
                                 SYMBOL(curl, curl_easy_strerror),  SYMBOL(curl, curl_slist_append),
                                 SYMBOL(curl, curl_slist_free_all), SYMBOL(curl, curl_url),
                                 SYMBOL(curl, curl_url_set),        SYMBOL(curl, curl_url_get),
                                 SYMBOL(curl, curl_url_cleanup),    SYMBOL(curl, curl_free)};
    if (!curl.curl_free_) {
        open_library(L, "libcurl.so.4", symbols, sizeof symbols / sizeof *symbols);
    }
    return &curl;
}

const pl_crypto *pl_lua_crypto(lua_State *L) {
    static pl_crypto crypto;
    const pl_symbol symbols[] = {
        SYMBOL(crypto, EVP_get_digestbyname), SYMBOL(crypto, EVP_MD_CTX_new),
        SYMBOL(crypto, EVP_MD_CTX_free),      SYMBOL(crypto, EVP_DigestInit_ex),
        SYMBOL(crypto, EVP_DigestUpdate),     SYMBOL(crypto, EVP_DigestFinal_ex)};
    if (!crypto.EVP_DigestFinal_ex_) {
        open_library(L, "libcrypto.so.3", symbols, sizeof symbols / sizeof *symbols);
    }
    return &crypto;
}
