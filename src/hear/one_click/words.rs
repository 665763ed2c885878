//! What the page behind List-Unsubscribe says, in the languages it knows.

use axum::http::{HeaderMap, header};

/// A heading and a sentence or two. Both stand in HTML as they are.
pub struct Said {
    pub title: &'static str,
    pub text: &'static str,
}

/// One language.
pub struct Words {
    /// RFC 5646.
    pub language: &'static str,
    pub button: &'static str,
    pub ask: Said,
    pub done: Said,
    pub unknown: Said,
    pub later: Said,
    pub not_understood: Said,
    /// Of a link to another page.
    pub not_here: Said,
}

/// Languages looked at in one header: browsers send a handful.
const LANGUAGES_MAX: usize = 20;

impl Words {
    /// English first: it speaks where no other is wanted.
    pub const ALL: [&'static Words; 5] = [&ENGLISH, &GERMAN, &FRENCH, &SPANISH, &JAPANESE];

    /// The language that the reader prefers among those there are (RFC 9110, section 12.5.4).
    pub fn wanted(headers: &HeaderMap) -> &'static Self {
        let header = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
        let mut best: (&'static Self, f32) = (&ENGLISH, 0.0);
        for range in header.unwrap_or_default().split(',').take(LANGUAGES_MAX) {
            let mut parts = range.split(';').map(str::trim);
            let tag = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.strip_prefix("q="));
            let weight = weight.map_or(1.0, |weight| weight.parse::<f32>().unwrap_or(0.0));
            let primary = tag.split('-').next().unwrap_or_default();
            let found = Self::ALL.into_iter().find(|words| words.language.eq_ignore_ascii_case(primary));
            if let Some(words) = found
                && weight > best.1
            {
                best = (words, weight);
            }
        }
        best.0
    }
}

static ENGLISH: Words = Words {
    language: "en",
    button: "Unsubscribe",
    ask: Said {
        title: "Unsubscribe?",
        text: "Press the button, and this sender's mailings no longer come to this address.",
    },
    done: Said {
        title: "You are unsubscribed",
        text: "This sender's mailings no longer come to this address. Receipts and other mail that you ask for still do.",
    },
    unknown: Said {
        title: "This link is not known",
        text: "It is damaged or was never made here. Open the link from the mail again, whole; if that fails too, \
               answer the mail and ask its sender to take you off the list.",
    },
    later: Said {
        title: "Not now",
        text: "Your wish could not be recorded at the moment. Please try again in a minute.",
    },
    not_understood: Said {
        title: "Not understood",
        text: "The body must be List-Unsubscribe=One-Click and nothing else, as a form (RFC 8058). Nothing was changed.",
    },
    not_here: Said {
        title: "This link is not known",
        text: "It is damaged or was never made here, and leads nowhere. Open it from the mail again, whole.",
    },
};

static GERMAN: Words = Words {
    language: "de",
    button: "Abmelden",
    ask: Said {
        title: "Abmelden?",
        text: "Ein Klick auf den Knopf, und an diese Adresse kommen keine Rundschreiben dieses Absenders mehr.",
    },
    done: Said {
        title: "Sie sind abgemeldet",
        text: "An diese Adresse kommen keine Rundschreiben dieses Absenders mehr. Belege und andere Mails, um die Sie \
               bitten, kommen weiterhin.",
    },
    unknown: Said {
        title: "Dieser Link ist nicht bekannt",
        text: "Er ist beschädigt oder stammt nicht von hier. Öffnen Sie den Link noch einmal aus der Mail, und zwar \
               vollständig. Hilft auch das nicht, antworten Sie auf die Mail und bitten Sie den Absender, Sie von der \
               Liste zu nehmen.",
    },
    later: Said {
        title: "Gerade nicht möglich",
        text: "Ihr Wunsch konnte im Moment nicht festgehalten werden. Bitte versuchen Sie es in einer Minute noch einmal.",
    },
    not_understood: Said {
        title: "Nicht verstanden",
        text: "Erwartet wird List-Unsubscribe=One-Click und nichts anderes, als Formular (RFC 8058). Es wurde nichts \
               geändert.",
    },
    not_here: Said {
        title: "Dieser Link ist nicht bekannt",
        text: "Er ist beschädigt oder stammt nicht von hier und führt nirgendwohin. Öffnen Sie ihn noch einmal aus der Mail, und zwar vollständig.",
    },
};

static FRENCH: Words = Words {
    language: "fr",
    button: "Se désabonner",
    ask: Said {
        title: "Se désabonner ?",
        text: "Appuyez sur le bouton, et cette adresse ne recevra plus les envois de cet expéditeur.",
    },
    done: Said {
        title: "Vous êtes désabonné",
        text: "Cette adresse ne recevra plus les envois de cet expéditeur. Les reçus et les autres messages que vous \
               demandez continueront d’arriver.",
    },
    unknown: Said {
        title: "Ce lien est inconnu",
        text: "Il est abîmé ou n’a pas été créé ici. Ouvrez de nouveau le lien entier depuis le message ; si cela ne \
               suffit pas, répondez au message et demandez à l’expéditeur de vous retirer de la liste.",
    },
    later: Said {
        title: "Pas maintenant",
        text: "Votre demande n’a pas pu être enregistrée pour le moment. Réessayez dans une minute.",
    },
    not_understood: Said {
        title: "Demande incomprise",
        text: "Le corps doit être List-Unsubscribe=One-Click et rien d’autre, sous forme de formulaire (RFC 8058). \
               Rien n’a été changé.",
    },
    not_here: Said {
        title: "Ce lien est inconnu",
        text: "Il est abîmé ou n’a pas été créé ici, et ne mène nulle part. Ouvrez-le de nouveau, entier, depuis le message.",
    },
};

static SPANISH: Words = Words {
    language: "es",
    button: "Darse de baja",
    ask: Said {
        title: "¿Darse de baja?",
        text: "Pulse el botón y esta dirección dejará de recibir los envíos de este remitente.",
    },
    done: Said {
        title: "Se ha dado de baja",
        text: "Esta dirección ya no recibirá los envíos de este remitente. Los recibos y otros correos que usted pida \
               seguirán llegando.",
    },
    unknown: Said {
        title: "Este enlace no se conoce",
        text: "Está dañado o no se creó aquí. Abra de nuevo el enlace completo desde el correo; si tampoco funciona, \
               responda al correo y pida al remitente que le quite de la lista.",
    },
    later: Said {
        title: "Ahora no es posible",
        text: "Su petición no pudo registrarse en este momento. Inténtelo de nuevo dentro de un minuto.",
    },
    not_understood: Said {
        title: "Petición no entendida",
        text: "El cuerpo debe ser List-Unsubscribe=One-Click y nada más, como formulario (RFC 8058). No se ha \
               cambiado nada.",
    },
    not_here: Said {
        title: "Este enlace no se conoce",
        text: "Está dañado o no se creó aquí, y no lleva a ninguna parte. Ábralo de nuevo, completo, desde el correo.",
    },
};

static JAPANESE: Words = Words {
    language: "ja",
    button: "配信を停止する",
    ask: Said {
        title: "配信を停止しますか？",
        text: "ボタンを押すと、この送信者からの一斉メールはこのアドレスに届かなくなります。",
    },
    done: Said {
        title: "配信を停止しました",
        text: "この送信者からの一斉メールは今後このアドレスに届きません。領収書など、ご自身が求めたメールは引き続き届きます。",
    },
    unknown: Said {
        title: "このリンクは確認できません",
        text: "リンクが壊れているか、ここで作られたものではありません。メールのリンクをもう一度、全体を開いてください。\
               それでも開けないときは、メールに返信して配信リストからの削除を送信者に依頼してください。",
    },
    later: Said {
        title: "ただいま受け付けられません",
        text: "ご希望を記録できませんでした。1分ほどたってから、もう一度お試しください。",
    },
    not_understood: Said {
        title: "内容を確認できません",
        text: "本文はフォーム形式の List-Unsubscribe=One-Click だけである必要があります（RFC 8058）。何も変更していません。",
    },
    not_here: Said {
        title: "このリンクは確認できません",
        text: "リンクが壊れているか、ここで作られたものではないため、どこにもつながりません。メールのリンクをもう一度、全体を開いてください。",
    },
};

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn wanted(header: &str) -> &'static str {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_str(header).unwrap());
        Words::wanted(&headers).language
    }

    #[test]
    fn the_language_is_the_one_most_wanted_of_those_there_are() {
        for (header, language) in [
            ("", "en"),
            ("de-AT,de;q=0.9,en;q=0.8", "de"),
            ("pt-BR, fr;q=0.5, es;q=0.7", "es"),
            ("ja", "ja"),
            ("FR-ca;q=1", "fr"),
            ("nl, sv", "en"),
            ("de;q=0, en;q=0.1", "en"),
            ("de;q=x, *", "en"),
        ] {
            assert_eq!(wanted(header), language, "{header}");
        }
        assert_eq!(Words::wanted(&HeaderMap::new()).language, "en");
        assert_eq!(wanted(&"de,".repeat(10_000)), "de");
    }
}
