"""The part of tox.h and toxencryptsave.h that the binding calls: the one definition of both ways to call it.

opening.py reads it at run time, where nothing was compiled; native.py makes C of it. Either way the shared
library is opened at run time, so that no header is needed, and one that lacks some functions (older than
0.2.19: groups) still loads and version.py can name what is missing. Options are set through accessor
functions, never through the struct, whose layout changes between versions.
"""

from typing import Final

SONAME: Final = "libtoxcore.so.2"
GROUPS_SINCE: Final = (0, 2, 19)

CDEF: Final = """
typedef struct Tox Tox;
typedef struct Tox_Options Tox_Options;
typedef struct Tox_Pass_Key Tox_Pass_Key;
typedef uint32_t Tox_Enum;  // every enumeration of tox.h; names are in enums.py
typedef uint32_t Tox_Err;   // every error enumeration; names are in errors.py

uint32_t tox_version_major(void);
uint32_t tox_version_minor(void);
uint32_t tox_version_patch(void);

// options

Tox_Options *tox_options_new(Tox_Err *error);
void tox_options_free(Tox_Options *options);
bool tox_options_get_ipv6_enabled(const Tox_Options *options);
void tox_options_set_ipv6_enabled(Tox_Options *options, bool value);
bool tox_options_get_udp_enabled(const Tox_Options *options);
void tox_options_set_udp_enabled(Tox_Options *options, bool value);
bool tox_options_get_local_discovery_enabled(const Tox_Options *options);
void tox_options_set_local_discovery_enabled(Tox_Options *options, bool value);
Tox_Enum tox_options_get_proxy_type(const Tox_Options *options);
void tox_options_set_proxy_type(Tox_Options *options, Tox_Enum value);
const char *tox_options_get_proxy_host(const Tox_Options *options);
void tox_options_set_proxy_host(Tox_Options *options, const char *value);
uint16_t tox_options_get_proxy_port(const Tox_Options *options);
void tox_options_set_proxy_port(Tox_Options *options, uint16_t value);
uint16_t tox_options_get_start_port(const Tox_Options *options);
void tox_options_set_start_port(Tox_Options *options, uint16_t value);
uint16_t tox_options_get_end_port(const Tox_Options *options);
void tox_options_set_end_port(Tox_Options *options, uint16_t value);
uint16_t tox_options_get_tcp_port(const Tox_Options *options);
void tox_options_set_tcp_port(Tox_Options *options, uint16_t value);
Tox_Enum tox_options_get_savedata_type(const Tox_Options *options);
void tox_options_set_savedata_type(Tox_Options *options, Tox_Enum value);
void tox_options_set_savedata_data(Tox_Options *options, const uint8_t *data, size_t length);
bool tox_options_get_experimental_groups_persistence(const Tox_Options *options);
void tox_options_set_experimental_groups_persistence(Tox_Options *options, bool value);

// the instance

Tox *tox_new(const Tox_Options *options, Tox_Err *error);
void tox_kill(Tox *tox);
size_t tox_get_savedata_size(const Tox *tox);
void tox_get_savedata(const Tox *tox, uint8_t *savedata);
bool tox_bootstrap(Tox *tox, const char *host, uint16_t port, const uint8_t *public_key, Tox_Err *error);
bool tox_add_tcp_relay(Tox *tox, const char *host, uint16_t port, const uint8_t *public_key, Tox_Err *error);
uint32_t tox_iteration_interval(const Tox *tox);
void tox_iterate(Tox *tox, void *user_data);
Tox_Enum tox_self_get_connection_status(const Tox *tox);
void tox_self_get_address(const Tox *tox, uint8_t *address);
void tox_self_set_nospam(Tox *tox, uint32_t nospam);
uint32_t tox_self_get_nospam(const Tox *tox);
void tox_self_get_public_key(const Tox *tox, uint8_t *public_key);
void tox_self_get_dht_id(const Tox *tox, uint8_t *dht_id);
void tox_self_get_secret_key(const Tox *tox, uint8_t *secret_key);
uint16_t tox_self_get_udp_port(const Tox *tox, Tox_Err *error);
uint16_t tox_self_get_tcp_port(const Tox *tox, Tox_Err *error);
bool tox_self_set_name(Tox *tox, const uint8_t *name, size_t length, Tox_Err *error);
size_t tox_self_get_name_size(const Tox *tox);
void tox_self_get_name(const Tox *tox, uint8_t *name);

typedef void tox_self_connection_status_cb(Tox *, Tox_Enum connection_status, void *);
void tox_callback_self_connection_status(Tox *tox, tox_self_connection_status_cb *callback);

// friends

uint32_t tox_friend_add(Tox *tox, const uint8_t *address, const uint8_t *message, size_t length, Tox_Err
    *error);
uint32_t tox_friend_add_norequest(Tox *tox, const uint8_t *public_key, Tox_Err *error);
bool tox_friend_delete(Tox *tox, uint32_t friend, Tox_Err *error);
size_t tox_self_get_friend_list_size(const Tox *tox);
void tox_self_get_friend_list(const Tox *tox, uint32_t *friend_list);
bool tox_friend_get_public_key(const Tox *tox, uint32_t friend, uint8_t *public_key, Tox_Err *error);
size_t tox_friend_get_name_size(const Tox *tox, uint32_t friend, Tox_Err *error);
bool tox_friend_get_name(const Tox *tox, uint32_t friend, uint8_t *name, Tox_Err *error);
bool tox_friend_send_lossy_packet(Tox *tox, uint32_t friend, const uint8_t *data, size_t length, Tox_Err
    *error);
bool tox_friend_send_lossless_packet(Tox *tox, uint32_t friend, const uint8_t *data, size_t length, Tox_Err
    *error);

typedef void tox_friend_request_cb(Tox *, const uint8_t *public_key, const uint8_t *message, size_t length,
    void *);
typedef void tox_friend_name_cb(Tox *, uint32_t friend, const uint8_t *name, size_t length, void *);
typedef void tox_friend_connection_status_cb(Tox *, uint32_t friend, Tox_Enum connection_status, void *);
typedef void tox_friend_lossy_packet_cb(Tox *, uint32_t friend, const uint8_t *data, size_t length, void *);
typedef void tox_friend_lossless_packet_cb(Tox *, uint32_t friend, const uint8_t *data, size_t length, void
    *);
void tox_callback_friend_request(Tox *tox, tox_friend_request_cb *callback);
void tox_callback_friend_name(Tox *tox, tox_friend_name_cb *callback);
void tox_callback_friend_connection_status(Tox *tox, tox_friend_connection_status_cb *callback);
void tox_callback_friend_lossy_packet(Tox *tox, tox_friend_lossy_packet_cb *callback);
void tox_callback_friend_lossless_packet(Tox *tox, tox_friend_lossless_packet_cb *callback);

// conferences

uint32_t tox_conference_new(Tox *tox, Tox_Err *error);
bool tox_conference_delete(Tox *tox, uint32_t conference, Tox_Err *error);
bool tox_conference_invite(Tox *tox, uint32_t friend, uint32_t conference, Tox_Err *error);
uint32_t tox_conference_join(Tox *tox, uint32_t friend, const uint8_t *cookie, size_t length, Tox_Err *error);
size_t tox_conference_get_title_size(const Tox *tox, uint32_t conference, Tox_Err *error);
bool tox_conference_get_title(const Tox *tox, uint32_t conference, uint8_t *title, Tox_Err *error);
bool tox_conference_set_title(Tox *tox, uint32_t conference, const uint8_t *title, size_t length, Tox_Err
    *error);
size_t tox_conference_get_chatlist_size(const Tox *tox);
void tox_conference_get_chatlist(const Tox *tox, uint32_t *chatlist);
bool tox_conference_get_id(const Tox *tox, uint32_t conference, uint8_t *id);
uint32_t tox_conference_peer_count(const Tox *tox, uint32_t conference, Tox_Err *error);
size_t tox_conference_peer_get_name_size(const Tox *tox, uint32_t conference, uint32_t peer, Tox_Err *error);
bool tox_conference_peer_get_name(const Tox *tox, uint32_t conference, uint32_t peer, uint8_t *name, Tox_Err
    *error);
bool tox_conference_peer_get_public_key(const Tox *tox, uint32_t conference, uint32_t peer, uint8_t
    *public_key, Tox_Err *error);
uint32_t tox_conference_offline_peer_count(const Tox *tox, uint32_t conference, Tox_Err *error);
size_t tox_conference_offline_peer_get_name_size(const Tox *tox, uint32_t conference, uint32_t peer, Tox_Err
    *error);
bool tox_conference_offline_peer_get_name(const Tox *tox, uint32_t conference, uint32_t peer, uint8_t *name,
    Tox_Err *error);
bool tox_conference_offline_peer_get_public_key(const Tox *tox, uint32_t conference, uint32_t peer, uint8_t
    *public_key, Tox_Err *error);

typedef void tox_conference_invite_cb(Tox *, uint32_t friend, Tox_Enum type, const uint8_t *cookie, size_t
    length, void *);
typedef void tox_conference_connected_cb(Tox *, uint32_t conference, void *);
typedef void tox_conference_title_cb(Tox *, uint32_t conference, uint32_t peer, const uint8_t *title, size_t
    length, void *);
typedef void tox_conference_peer_name_cb(Tox *, uint32_t conference, uint32_t peer, const uint8_t *name,
    size_t length, void *);
typedef void tox_conference_peer_list_changed_cb(Tox *, uint32_t conference, void *);
void tox_callback_conference_invite(Tox *tox, tox_conference_invite_cb *callback);
void tox_callback_conference_connected(Tox *tox, tox_conference_connected_cb *callback);
void tox_callback_conference_title(Tox *tox, tox_conference_title_cb *callback);
void tox_callback_conference_peer_name(Tox *tox, tox_conference_peer_name_cb *callback);
void tox_callback_conference_peer_list_changed(Tox *tox, tox_conference_peer_list_changed_cb *callback);

// groups (NGC)

uint32_t tox_group_new(Tox *tox, Tox_Enum privacy_state, const uint8_t *group_name, size_t group_name_length,
    const uint8_t *name, size_t name_length, Tox_Err *error);
uint32_t tox_group_join(Tox *tox, const uint8_t *chat_id, const uint8_t *name, size_t name_length, const
    uint8_t *password, size_t password_length, Tox_Err *error);
bool tox_group_reconnect(Tox *tox, uint32_t group, Tox_Err *error);
bool tox_group_leave(Tox *tox, uint32_t group, const uint8_t *part_message, size_t length, Tox_Err *error);
bool tox_group_invite_friend(const Tox *tox, uint32_t group, uint32_t friend, Tox_Err *error);
uint32_t tox_group_invite_accept(Tox *tox, uint32_t friend, const uint8_t *invite_data, size_t length, const
    uint8_t *name, size_t name_length, const uint8_t *password, size_t password_length, Tox_Err *error);
bool tox_group_set_password(Tox *tox, uint32_t group, const uint8_t *password, size_t length, Tox_Err *error);
bool tox_group_kick_peer(const Tox *tox, uint32_t group, uint32_t peer, Tox_Err *error);
uint32_t tox_group_get_number_groups(const Tox *tox);
size_t tox_group_get_name_size(const Tox *tox, uint32_t group, Tox_Err *error);
bool tox_group_get_name(const Tox *tox, uint32_t group, uint8_t *name, Tox_Err *error);
size_t tox_group_get_password_size(const Tox *tox, uint32_t group, Tox_Err *error);
bool tox_group_get_password(const Tox *tox, uint32_t group, uint8_t *password, Tox_Err *error);
bool tox_group_get_chat_id(const Tox *tox, uint32_t group, uint8_t *chat_id, Tox_Err *error);
Tox_Enum tox_group_get_privacy_state(const Tox *tox, uint32_t group, Tox_Err *error);
bool tox_group_self_set_name(Tox *tox, uint32_t group, const uint8_t *name, size_t length, Tox_Err *error);
Tox_Enum tox_group_self_get_role(const Tox *tox, uint32_t group, Tox_Err *error);
uint32_t tox_group_self_get_peer_id(const Tox *tox, uint32_t group, Tox_Err *error);
bool tox_group_self_get_public_key(const Tox *tox, uint32_t group, uint8_t *public_key, Tox_Err *error);
size_t tox_group_peer_get_name_size(const Tox *tox, uint32_t group, uint32_t peer, Tox_Err *error);
bool tox_group_peer_get_name(const Tox *tox, uint32_t group, uint32_t peer, uint8_t *name, Tox_Err *error);
Tox_Enum tox_group_peer_get_connection_status(const Tox *tox, uint32_t group, uint32_t peer, Tox_Err *error);
bool tox_group_peer_get_public_key(const Tox *tox, uint32_t group, uint32_t peer, uint8_t *public_key, Tox_Err
    *error);
bool tox_group_send_custom_packet(const Tox *tox, uint32_t group, bool lossless, const uint8_t *data, size_t
    length, Tox_Err *error);
bool tox_group_send_custom_private_packet(const Tox *tox, uint32_t group, uint32_t peer, bool lossless, const
    uint8_t *data, size_t length, Tox_Err *error);

typedef void tox_group_invite_cb(Tox *, uint32_t friend, const uint8_t *invite_data, size_t length, const
    uint8_t *group_name, size_t group_name_length, void *);
typedef void tox_group_self_join_cb(Tox *, uint32_t group, void *);
typedef void tox_group_join_fail_cb(Tox *, uint32_t group, Tox_Enum fail_type, void *);
typedef void tox_group_peer_join_cb(Tox *, uint32_t group, uint32_t peer, void *);
typedef void tox_group_peer_exit_cb(Tox *, uint32_t group, uint32_t peer, Tox_Enum exit_type, const uint8_t
    *name, size_t name_length, const uint8_t *part_message, size_t part_message_length, void *);
typedef void tox_group_peer_name_cb(Tox *, uint32_t group, uint32_t peer, const uint8_t *name, size_t length,
    void *);
typedef void tox_group_moderation_cb(Tox *, uint32_t group, uint32_t source, uint32_t target, Tox_Enum
    mod_type, void *);
typedef void tox_group_custom_packet_cb(Tox *, uint32_t group, uint32_t peer, const uint8_t *data, size_t
    length, void *);
typedef void tox_group_custom_private_packet_cb(Tox *, uint32_t group, uint32_t peer, const uint8_t *data,
    size_t length, void *);
void tox_callback_group_invite(Tox *tox, tox_group_invite_cb *callback);
void tox_callback_group_self_join(Tox *tox, tox_group_self_join_cb *callback);
void tox_callback_group_join_fail(Tox *tox, tox_group_join_fail_cb *callback);
void tox_callback_group_peer_join(Tox *tox, tox_group_peer_join_cb *callback);
void tox_callback_group_peer_exit(Tox *tox, tox_group_peer_exit_cb *callback);
void tox_callback_group_peer_name(Tox *tox, tox_group_peer_name_cb *callback);
void tox_callback_group_moderation(Tox *tox, tox_group_moderation_cb *callback);
void tox_callback_group_custom_packet(Tox *tox, tox_group_custom_packet_cb *callback);
void tox_callback_group_custom_private_packet(Tox *tox, tox_group_custom_private_packet_cb *callback);

// toxencryptsave

Tox_Pass_Key *tox_pass_key_derive(const uint8_t *passphrase, size_t length, Tox_Err *error);
Tox_Pass_Key *tox_pass_key_derive_with_salt(const uint8_t *passphrase, size_t length, const uint8_t *salt,
    Tox_Err *error);
void tox_pass_key_free(Tox_Pass_Key *key);
bool tox_pass_key_encrypt(const Tox_Pass_Key *key, const uint8_t *plaintext, size_t length, uint8_t
    *ciphertext, Tox_Err *error);
bool tox_pass_key_decrypt(const Tox_Pass_Key *key, const uint8_t *ciphertext, size_t length, uint8_t
    *plaintext, Tox_Err *error);
bool tox_get_salt(const uint8_t *ciphertext, uint8_t *salt, Tox_Err *error);
bool tox_is_data_encrypted(const uint8_t *data);
"""
