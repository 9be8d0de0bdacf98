package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/ksplice/ksplice/core/trust"
	"github.com/ksplice/ksplice/core/update"
)

// passwordVariable holds a secret key's password, where there is neither a file nor a terminal.
const passwordVariable = "KSPLICE_SIGN_PASSWORD"

// signPassword is what passwordVariable held when the command was started; nil: it was not set.
var signPassword *string

// takePassword takes it out of the environment: plugins, compilers and other programs that are run get that, and are not to have it.
func takePassword() {
	if said, ok := os.LookupEnv(passwordVariable); ok {
		signPassword = &said
		os.Unsetenv(passwordVariable)
	}
}

// signer are the flags that say which key to sign with.
type signer struct {
	key  string
	word password
}

func (s *signer) flags(fs *pflag.FlagSet, key, word string) {
	fs.StringVar(&s.key, key, "", "sign with the secret key in `FILE` (ksplice keygen, minisign -G)")
	s.word.flags(fs, word)
}

// secret reads the key, or nothing where none was named.
func (s *signer) secret(ctx context.Context) (*trust.Secret, error) {
	if s.key == "" {
		if s.word.file != "" {
			return nil, usagef("--%s wants a key to be named", s.word.flag)
		}
		return nil, nil
	}
	secret, err := trust.ReadSecret(s.key, func() (string, error) { return s.word.read(ctx, fmt.Sprintf("Password of %s: ", s.key)) })
	if errors.Is(err, trust.ErrNoSecret) || errors.Is(err, trust.ErrPassword) || errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		err = usagef("%v", err)
	}
	return secret, err
}

// sign signs an update. The comment that is signed with it says what it is, and not when: the same update and key give the same file.
func sign(s *update.Sealed, u *update.Update, secret *trust.Secret) error {
	x, err := secret.Sign(s.Content, fmt.Sprintf("ksplice update %s for kernel %s", u.Manifest.ID, u.Manifest.Kernel.Release))
	if err != nil {
		return err
	}
	return s.Sign(x)
}

func signCommand() *command {
	var by signer
	return &command{
		name: "sign", args: "FILE", summary: "sign an update",
		help: `Adds a signature to the update's file, or renews that of the same key; others stay, so that several may sign. Neither the
update nor its ID changes. The key is minisign's (ksplice keygen, minisign -G). The password of one that is encrypted is asked for
at the terminal, or is the first line of --password-file, or $` + passwordVariable + `.
minisign -Sm FILE does as well: it writes FILE.minisig, which goes along with the file.`,
		example: "ksplice sign --key acme.key fix.ksplice",
		flags:   func(fs *pflag.FlagSet) { by.flags(fs, "key", "password-file") },
		run: func(ctx context.Context, e *env, args []string) error {
			path, err := one(args, "update file")
			if err != nil {
				return err
			}
			if by.key == "" {
				return usagef("name the secret key with --key")
			}
			if err := update.CanReplace(path); err != nil {
				return usagef("%v", err)
			}
			s, err := readSealed(ctx, path)
			if err != nil {
				return err
			}
			u, err := s.Open()
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			secret, err := by.secret(ctx)
			if err != nil {
				return err
			}
			if err := sign(s, u, secret); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if err := s.WriteFile(path); err != nil {
				return err
			}
			return e.result(map[string]string{"file": path, "id": u.Manifest.ID, "signed_with": secret.ID()}, func(w io.Writer) {
				fmt.Fprintf(w, "signed\t%s, update %s, with key %s\n", path, u.Manifest.ID, secret.ID())
			})
		},
	}
}

func keygenCommand() *command {
	var word password
	var open bool
	return &command{
		name: "keygen", args: "NAME", summary: "make a key pair to sign updates with",
		help: `Writes the secret key to NAME.key, encrypted with a password, and the public key to NAME.pub, both as minisign has them.
Whoever has the secret key can have every machine that trusts it run what he likes: keep it off machines that others use. Files
that are there already are not overwritten. Encrypting takes a gigabyte of memory for some seconds, and so does signing.`,
		example: "ksplice keygen acme\nksplice create --patch fix.patch --sign acme.key\ncp acme.pub " + trust.DefaultDir + "/    # on machines that shall take it",
		flags: func(fs *pflag.FlagSet) {
			fs.BoolVar(&open, "no-password", false, "do not encrypt the secret key: who can read the file can sign")
			word.flags(fs, "password-file")
		},
		run: func(ctx context.Context, e *env, args []string) error {
			name, err := one(args, "name")
			if err != nil {
				return err
			}
			said := ""
			switch {
			case open && word.file != "":
				return usagef("--no-password and --password-file contradict each other")
			case !open:
				if said, err = word.choose(ctx); err != nil {
					return err
				}
			}
			secret, public, err := trust.Generate(said)
			if err != nil {
				return err
			}
			files := map[string]string{"secret": name + ".key", "public": name + ".pub"}
			if err := writeNew(files["secret"], secret, 0o600); err != nil {
				return err
			}
			if err := writeNew(files["public"], public, 0o644); err != nil {
				return errors.Join(err, os.Remove(files["secret"]))
			}
			return e.result(files, func(w io.Writer) {
				fmt.Fprintf(w, "secret\t%s: sign with it, and show it to nobody\n", files["secret"])
				fmt.Fprintf(w, "public\t%s: goes to %s of machines that shall take your updates\n", files["public"], trust.DefaultDir)
			})
		},
	}
}

// writeNew writes a file that is not there yet.
func writeNew(path string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return usagef("write a key: %v", err)
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write a key: %w", err), os.Remove(path))
	}
	return nil
}

// password is where that of a secret key comes from.
type password struct {
	flag, file string
	variable   bool // it came from the environment
}

// maxPassword bounds it, in bytes, as minisign does.
const maxPassword = 1024

func (p *password) flags(fs *pflag.FlagSet, name string) {
	p.flag = name
	fs.StringVar(&p.file, name, "", "a `FILE` whose first line is the secret key's password (default: $"+passwordVariable+", or it is asked for)")
}

// read returns the password: from the file, the environment, or the terminal.
func (p *password) read(ctx context.Context, prompt string) (string, error) {
	if p.file != "" {
		f, err := os.Open(p.file)
		if err != nil {
			return "", usagef("--%s: %v", p.flag, err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxPassword+2))
		if err != nil {
			return "", usagef("--%s: %v", p.flag, err)
		}
		line, _, _ := bytes.Cut(b, []byte("\n"))
		if len(line) > maxPassword {
			return "", usagef("--%s: its first line is longer than %d bytes", p.flag, maxPassword)
		}
		return string(line), nil
	}
	if signPassword != nil {
		p.variable = true
		return *signPassword, nil
	}
	return p.ask(ctx, prompt)
}

// ask asks at the terminal, wherever standard input comes from.
func (p *password) ask(ctx context.Context, prompt string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", usagef("there is no terminal to ask for the secret key's password at: give it in --%s FILE or $%s", p.flag, passwordVariable)
	}
	fd := int(tty.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("ask for a password: %w", errors.Join(err, tty.Close()))
	}
	fmt.Fprint(tty, prompt)
	type answer struct {
		said []byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		said, err := term.ReadPassword(fd)
		answers <- answer{said, err}
	}()
	select {
	case a := <-answers:
		fmt.Fprintln(tty)
		if err := errors.Join(a.err, tty.Close()); err != nil {
			return "", fmt.Errorf("ask for a password: %w", err)
		}
		return string(a.said), nil
	case <-ctx.Done(): // nobody answers: the terminal gets its echo back, and the file stays open for who reads from it
		fmt.Fprintln(tty)
		return "", errors.Join(ctx.Err(), term.Restore(fd, before))
	}
}

// choose returns a new password, which at the terminal is asked for twice.
func (p *password) choose(ctx context.Context) (string, error) {
	said, err := p.read(ctx, "Password for the secret key: ")
	if err != nil {
		return "", err
	}
	if said == "" {
		return "", usagef("the password is empty: choose one, or say --no-password")
	}
	if p.file == "" && !p.variable {
		again, err := p.ask(ctx, "Once more: ")
		if err != nil {
			return "", err
		}
		if said != again {
			return "", usagef("the two passwords differ")
		}
	}
	return said, nil
}
